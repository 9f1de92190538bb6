"""A run's directory: its files, its lock and its log."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from cotrace.errors import CotraceError, DamagedRun, InputError, OutputExists, RunBusy, WorkersError
from cotrace.text.escape import visible

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run's lock, at once or not at all. Raises RunBusy where another process holds it."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunBusy(
            f"another process is writing the run {folder}: wait until it is done, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


CONFIG = "config.yaml"
LOG = "log.txt"
MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoint"
TEMPORARY = ".tmp"


@dataclass(frozen=True)
class RunDirectory:
    """A folder that is new or empty when it is claimed."""

    path: Path
    base: Path | None = None
    """Where the user gave no name: the name that numbers are put behind, should the folder be taken meanwhile."""

    @classmethod
    def claim(cls, out: str | Path) -> RunDirectory:
        """Check that results can be written there; nothing is created. Raises OutputExists, InputError."""
        path = Path(out)
        if ".." in path.parts:  # to make it would make every folder that it goes through and leaves again
            path = path.resolve()
        if path.is_dir() and not _is_free(path):
            raise OutputExists(_taken(path))
        if path.exists() and not path.is_dir():
            raise OutputExists(f"the output {path} is a file: name a new folder with --out")
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            raise InputError(
                f"the output folder {path} cannot be made: {parent} is not a folder that can be written to"
            )
        return cls(path)

    @classmethod
    def next_free(cls, base: str | Path) -> RunDirectory:
        """The folder of that name, or with the first number behind it that is free."""
        base = Path(base)
        paths = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in count(1))
        path = next(path for path in paths if not path.exists() or (path.is_dir() and _is_free(path)))
        return cls(cls.claim(path).path, base)

    @contextmanager
    def begun(self, config: bytes) -> Iterator[Path]:
        """Make the folder with its config.yaml, and hold its lock. Raises OutputExists, RunBusy where it was taken.

        A mistake of the user's that shows before the first checkpoint leaves nothing behind.
        """
        was_there = self.path.exists()
        with ExitStack() as stack:
            directory = self.made(stack)
            try:
                write_atomically(directory.path / CONFIG, config)
                yield directory.path
            except CotraceError as error:
                if not (directory.path / CHECKPOINTS).exists() and not isinstance(error, WorkersError):
                    directory.give_up(keep=was_there)
                raise

    def made(self, stack: ExitStack) -> RunDirectory:
        """This directory, or the next of its name that is free, made and locked for as long as the stack is open."""
        try:
            stack.enter_context(self._locked())
        except (OutputExists, RunBusy):
            if self.base is None:
                raise
            return RunDirectory.next_free(self.base).made(stack)
        return self

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            RunDirectory.claim(self.path)  # another process may have been quicker
            yield

    def give_up(self, keep: bool) -> None:
        """Remove what a run has begun to write, and the folder where it is not to be kept and holds nothing else."""
        sweep(self.path)
        for name in (CONFIG, LOG, LOCK):
            (self.path / name).unlink(missing_ok=True)
        if not keep and not any(self.path.iterdir()):
            self.path.rmdir()

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write these files; each is there in full or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(self.path / name, content)


def _taken(path: Path) -> str:
    """Why a folder is not free, with the remedy."""
    begun, finished = (path / CONFIG).exists(), (path / MANIFEST).exists()
    if begun and not finished:
        return (
            f"the output folder {path} already holds a run that has not finished: go on with `cotrace resume {path}`, "
            "or name a new folder with --out"
        )
    return f"the output folder {path} already holds {'a run' if begun else 'files'}: name a new one with --out"


def is_leftover(path: Path) -> bool:
    """Whether a file is our lock, or one that was being written when its process was killed."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(TEMPORARY))


def _is_free(folder: Path) -> bool:
    return all(map(is_leftover, folder.iterdir()))


def sweep(folder: Path) -> None:
    """Remove the files that were being written when a process was killed. Only for who holds the lock."""
    for path in folder.iterdir():
        if is_leftover(path) and path.name != LOCK:
            path.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary sibling, flush it to the disk, rename it, and flush the folder."""
    with naming(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _flush(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError within is about this file; a write that fails names none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _flush(folder: Path) -> None:
    """Have the folder's own list of names on the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True)
class Log:
    """The log of the run in a folder."""

    folder: Path

    def say(self, what: str) -> None:
        """Add a line with the time in UTC; the file is closed again at once, so that a kill loses nothing.

        Raises DamagedRun where the log is a link: in somebody's run it may lead to a file that is none of the run's.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self.folder / LOG
        if path.is_symlink():
            raise DamagedRun(f"{path} is a link, which no run writes: delete it")
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {visible(' '.join(what.split()))}\n")
