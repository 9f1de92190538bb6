"""A new file of the user's naming: nothing that is there is written over."""

from __future__ import annotations

from pathlib import Path

from cotrace.errors import InputError, OutputExists


def new_file(name: str | Path, option: str = "--out") -> Path:
    """The path, where a new file can be written; ``option`` is what named it. Raises OutputExists, InputError."""
    path = Path(name)
    if path.exists():
        raise OutputExists(f"the output {path} exists already: name a new file with {option}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"the output {path} cannot be written: there is no folder {path.parent}; make it first")
    return path
