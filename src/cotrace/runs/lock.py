"""One writer for a run: a lock that the system frees when its process ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cotrace.errors import RunBusy

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
