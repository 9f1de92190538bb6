"""RunDirectory: one folder for one run, claimed before anything is computed and written file by file, each at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from cotrace.errors import InputError, OutputExists


@dataclass(frozen=True)
class RunDirectory:
    """A folder that is new or empty when it is claimed."""

    path: Path

    @classmethod
    def claim(cls, out: str | Path) -> RunDirectory:
        """Check that results can be written there; nothing is created. Raises OutputExists, InputError."""
        path = Path(out)
        if path.is_dir() and any(path.iterdir()):
            what = "a run" if (path / "config.yaml").exists() else "files"
            raise OutputExists(f"the output folder {path} already holds {what}: name a new one with --out")
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
        for number in count(1):
            path = base if number == 1 else base.with_name(f"{base.name}-{number}")
            if not path.exists() or (path.is_dir() and not any(path.iterdir())):
                break
        return cls.claim(path)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write these files; each is there in full or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(self.path / name, content)


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary sibling, flush it to the disk, and rename it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
