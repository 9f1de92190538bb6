"""The manifest: the hash of every file, checksums within files, and the version of the code."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cotrace import __version__
from cotrace.donors import donor_file
from cotrace.errors import DamagedRun, InputError
from cotrace.runs.directory import MANIFEST, is_leftover, locked, write_atomically
from cotrace.text.files import read_bytes

LINE = "# sha256 of the lines above: "


def seal(payload: dict[str, Any]) -> bytes:
    """The payload as JSON, with its hash."""
    return (json.dumps({"sha256": _hash(payload), "payload": payload}, ensure_ascii=False) + "\n").encode()


def unseal(path: Path) -> dict[str, Any]:
    """Inverse of ``seal``, from a file. Raises DamagedRun where it cannot be read or its hash differs."""
    try:
        data: Any = json.loads(read_bytes(path))  # not as strict as a user's file: counts may be infinite
    except InputError as error:
        raise DamagedRun(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise DamagedRun(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DamagedRun(f"{path} is damaged: it is not the JSON that a run writes") from None
    payload = data.get("payload") if isinstance(data, dict) else None
    if not isinstance(payload, dict) or data.get("sha256") != _hash(payload):
        raise DamagedRun(f"{path} is damaged: its content does not have the hash that it names")
    return payload


def _hash(payload: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def seal_text(text: str) -> bytes:
    """The text with a comment behind it that holds its hash."""
    content = text.encode()
    return content + f"{LINE}{hashlib.sha256(content).hexdigest()}\n".encode()


def text_is_whole(text: str) -> bool | None:
    """Whether a sealed text is as it was written; None where its last line holds no hash: cut short, or not sealed."""
    body, found, written = text.rpartition(LINE)
    if not found or not body.endswith("\n") or "\n" in written.rstrip("\n"):
        return None
    return hashlib.sha256(body.encode()).hexdigest() == written.strip()


SCHEMA = 1


@dataclass(frozen=True)
class Fingerprint:
    """Size and hash of a file."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Fingerprint:
        """Return the fingerprint of a content in memory."""
        return cls(len(content), hashlib.sha256(content).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Fingerprint:
        """Return the fingerprint of a file. Raises OSError."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path.stat().st_size, digest)


class ListedFile(TypedDict):
    """Entry of a file in manifest.json."""

    size_bytes: int
    sha256: str


class Listed(TypedDict):
    """Content of manifest.json."""

    schema: Literal[1]
    files: dict[str, ListedFile]


@dataclass(frozen=True)
class Manifest:
    """The files of a finished run."""

    folder: Path
    files: Mapping[str, Fingerprint]
    """Name -> fingerprint; names are plain, so that none leads out of the folder."""

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Return the manifest of the files that are there now."""
        files = (path for path in sorted(folder.iterdir()) if path.is_file() and not is_leftover(path))
        return cls(folder, {path.name: Fingerprint.of_file(path) for path in files if path.name != MANIFEST})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in a folder. Raises DamagedRun; InputError where the run has not finished."""
        path = folder / MANIFEST
        if not path.exists():
            raise InputError(f"{folder} holds no finished run: it has no {MANIFEST}; see `cotrace resume {folder}`")
        try:
            payload = unseal(path)
        except DamagedRun as error:
            raise DamagedRun(f"{error}; {remedy(folder)}") from None
        try:
            files = TypeAdapter(Listed).validate_python(payload, strict=True)["files"]
        except ValidationError:
            raise DamagedRun(f"{path} is not what this cotrace writes; {remedy(folder)}") from None
        return cls(folder, {name: Fingerprint(**files[name]) for name in files if Path(name).name == name})

    def write(self) -> None:
        """Write manifest.json."""
        files = {name: asdict(entry) for name, entry in self.files.items()}
        write_atomically(self.folder / MANIFEST, seal({"schema": SCHEMA, "cotrace": __version__, "files": files}))

    def damage(self, name: str) -> str | None:
        """Return the damage of a listed file in words; None where it is as it was written."""
        path, entry = self.folder / name, self.files[name]
        try:
            found = Fingerprint.of_file(path)
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        if found.size_bytes != entry.size_bytes:
            return f"{path} has {found.size_bytes} bytes, and the run wrote {entry.size_bytes}"
        return None if found == entry else f"{path} is not what the run wrote: its hash differs"

    def damaged(self) -> dict[str, str]:
        """Return name -> damage of every file that is not as it was written."""
        return {name: words for name in self.files if (words := self.damage(name)) is not None}

    def check(self, names: Iterable[str]) -> None:
        """Raise DamagedRun for the first of these files that is listed and not as it was written."""
        for name in names:
            if name in self.files and (words := self.damage(name)) is not None:
                raise DamagedRun(f"{words}; {remedy(self.folder)}")

    def without(self, names: Iterable[str]) -> Manifest:
        """The manifest without these files."""
        gone = set(names)
        return Manifest(self.folder, {name: entry for name, entry in self.files.items() if name not in gone})

    def with_files(self, files: Mapping[str, bytes]) -> Manifest:
        """The manifest with these files, new or changed."""
        own = dict(self.files) | {name: Fingerprint.of(content) for name, content in files.items()}
        return Manifest(self.folder, dict(sorted(own.items())))


def remedy(folder: Path) -> str:
    """Return the remedy for a finished run that is damaged."""
    return f"restore it, or delete {folder / MANIFEST} and let `cotrace resume {folder}` compute the run again"


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    return (folder / MANIFEST).exists()


def check_files(folder: Path, *names: str) -> None:
    """Raise DamagedRun for a file of a finished run that is not as it was written, InputError for an unfinished run."""
    if not is_finished(folder):
        raise InputError(f"the run {folder} has not finished: go on with `cotrace resume {folder}`")
    Manifest.read(folder).check(names)


def holds(folder: Path, name: str) -> bool:
    """Whether a finished run has this file. Raises DamagedRun where it is listed and gone, or not as it was written."""
    check_files(folder, name)
    return (folder / name).is_file()


def add_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a finished run and list them in its manifest. Raises RunBusy, DamagedRun.

    A kill in between leaves them unlisted, never listed with another content's hash.
    """
    with locked(folder):
        before = Manifest.read(folder)
        if before.files.keys() & files.keys():
            before.without(files).write()
        for name, content in files.items():
            write_atomically(folder / name, content)
        before.with_files(files).write()


LONGEST_S = 10.0


def origin_of(metric: str | None) -> dict[str, Any] | None:
    """File, hash and git state of ``package.module:function`` or ``file.py:function``; None for a metric of ours."""
    where, colon, _ = (metric or "").rpartition(":")
    path = _file(where) if colon else None
    if path is None:
        return None
    return {"file": str(path), "sha256": Fingerprint.of_file(path).sha256} | git_state(path)


def donor_origin(donors: str | None) -> dict[str, Any] | None:
    """File, hash and git state of ``vector=FILE`` and ``noise=FILE``; None for other donors."""
    found = donor_file(donors)
    if found is None:
        return None
    path = Path(found[1]).resolve()
    return {"file": str(path), "sha256": Fingerprint.of_file(path).sha256} | git_state(path)


def _file(where: str) -> Path | None:
    if where.endswith(".py"):
        return Path(where).resolve()
    spec = find_spec(where)  # it was imported before: the metric is there
    return Path(spec.origin).resolve() if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def git_state(path: Path) -> dict[str, Any]:
    """The commit that the file's repository is at, and whether the file differs from it; both None outside of one."""
    commit = _git(path, "rev-parse", "HEAD")
    status = None if commit is None else _git(path, "status", "--porcelain", "--ignored", "--", path.name)
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def _git(path: Path, *arguments: str) -> str | None:
    """Return git's answer in the file's folder; None without git, outside a repository, or after the time limit."""
    program = shutil.which("git")
    if program is None:
        return None
    command = [program, "-C", str(path.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)  # noqa: S603
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
