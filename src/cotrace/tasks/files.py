"""Reading the benchmarks' own files, with errors that say which file is missing and where to get it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from cotrace.errors import InputError, unknown
from cotrace.json_file import parse_json, read_bytes
from cotrace.prompts.pair import PromptPair

Conventions = Literal["corrected", "paper"]
Skipped = tuple[tuple[str, str], ...]
"""Records that could not be used: (which, why)."""


def checked_conventions(name: str) -> Conventions:
    """The conventions of that name. Raises UnknownName."""
    if name == "paper":
        return "paper"
    if name == "corrected":
        return "corrected"
    raise unknown("conventions", name, ("corrected", "paper"))


def find(folder: str | Path, names: Sequence[str], source: str) -> Path:
    """The first of these files that the folder holds; where ``folder`` is itself a file of such a name, that file.

    Raises InputError naming the file and ``source``, where to get it.
    """
    folder = Path(folder)
    if folder.is_file():
        if folder.name in names:
            return folder
        raise InputError(f"{folder} is a file; give the folder that holds {names[0]} ({source})")
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; give the folder that holds {names[0]} ({source})")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    raise InputError(f"{folder} has no {names[0]}{others}; get it from {source}")


def read_text(path: Path) -> str:
    """The file as UTF-8 text. Raises InputError, for one that is too large too."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path.name}:{line}: not UTF-8; get the file again or save it as UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def read_json(path: Path, source: str) -> Any:
    """The value in a benchmark's JSON file. Raises InputError that says where to get the file."""
    try:
        return parse_json(read_text(path), path.name)
    except InputError as error:
        raise InputError(f"{error} (it comes from {source})") from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Line number (from 1) and stripped text of every line that is not blank. Raises InputError where there is none."""
    lines = [(i, line.strip()) for i, line in enumerate(read_text(path).split("\n"), start=1)]
    found = [(i, line) for i, line in lines if line]
    if not found:
        raise InputError(f"{path.name}: the file is empty; get it again")
    return found


def read_table(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Line number and cells of the rows of a tab-separated file with one header line. Raises InputError."""
    rows = [(i, line.split("\t")) for i, line in read_lines(path)[1:]]
    for i, cells in rows:
        if len(cells) < columns:
            raise InputError(f"{path.name}:{i}: has {len(cells)} cells between tabs, needs {columns}; get it again")
    return rows


def need_pairs(pairs: Iterable[PromptPair], skipped: Skipped, where: str) -> tuple[PromptPair, ...]:
    """The pairs. Raises InputError with the first reason where none could be used."""
    found = tuple(pairs)
    if not found:
        which, why = skipped[0] if skipped else ("the file", "holds no record")
        raise InputError(f"{where}: none of {len(skipped)} records can be used; the first, {which}: {why}")
    return found
