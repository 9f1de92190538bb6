"""The project's own data format: JSON Lines, one prompt pair a line, each checked against ``pair.schema.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotrace.errors import InputError
from cotrace.json_file import loads, why
from cotrace.prompts.delimited import DELIMITERS, records_of
from cotrace.prompts.record import pair_of

if TYPE_CHECKING:
    import pandas as pd

    from cotrace.prompts.pair import PromptPair

LINE_LIMIT_BYTES = 1 << 20
"""A longer line is refused: it is a file of another kind, or a whole data set on one line."""


def read_pairs(path: str | Path) -> tuple[PromptPair, ...]:
    """The pairs of a JSON Lines file, or of a .csv or .tsv; blank lines are passed over.

    Ids default to the line number, in tables to the row's, from 1. Raises InputError, one line that names file, line,
    field and remedy.
    """
    path = Path(path)
    if path.suffix.lower() in DELIMITERS:
        pairs = _pairs((where, str(i), record) for i, (where, record) in enumerate(records_of(path), start=1))
        need = "a header with the names of the fields, and a row for each pair"
    else:
        pairs = _pairs((where, str(line), _parsed(text, where)) for where, line, text in _numbered(path))
        need = "one JSON object a line"
    if not pairs:
        raise InputError(f"{path.name}: the file is empty; it needs {need}")
    return pairs


def pairs_from_records(records: Iterable[Mapping[str, Any]] | pd.DataFrame) -> tuple[PromptPair, ...]:
    """The pairs of dicts or DataFrame rows with the fields of the JSON Lines format; ids default to the place, from 1.

    A None, and what a DataFrame holds in an empty cell (NaN, NaT, NA), means that the field is absent, in dicts too: no
    field of the format can have it. Raises InputError.
    """
    rows = _rows(records)
    return _pairs((f"record {i}", str(i), _plain_record(row, f"record {i}")) for i, row in enumerate(rows, start=1))


def _pairs(numbered: Iterable[tuple[str, str, object]]) -> tuple[PromptPair, ...]:
    """Checked pairs of (where, default id, record), no id twice."""
    first: dict[str, str] = {}
    pairs = []
    for where, default_id, record in numbered:
        pair = pair_of(record, where, default_id)
        if pair.id in first:
            raise InputError(f"{where}: the id {pair.id!r} stands at {first[pair.id]} already; ids must differ")
        first[pair.id] = where
        pairs.append(pair)
    return tuple(pairs)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each line that is not blank."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the JSON Lines file in it")
    try:
        with path.open("rb") as file:
            line = 0
            while raw := file.readline(LINE_LIMIT_BYTES + 1):
                line += 1
                text = _decoded(raw, f"{path.name}:{line}", first=line == 1)
                if text.strip():
                    yield line, text
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a JSON Lines file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _decoded(raw: bytes, where: str, *, first: bool) -> str:
    if len(raw) > LINE_LIMIT_BYTES:
        raise InputError(f"{where}: the line is longer than {LINE_LIMIT_BYTES} bytes; put one JSON object on each line")
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        raise InputError(f"{where}: {reason}; save the file as UTF-8 text") from None


def _numbered(path: Path) -> Iterator[tuple[str, int, str]]:
    """Place, line number and text of each line. Raises InputError for an array, in which lines are no objects."""
    for count, (line, text) in enumerate(_lines(path)):
        where = f"{path.name}:{line}"
        if not count and text.lstrip().startswith("["):
            raise InputError(f"{where}: holds {ARRAY}")
        yield where, line, text


def _parsed(text: str, where: str) -> object:
    """The JSON value of a line; refuses what JSON does not know (NaN) and what would be lost (double keys)."""
    try:
        return loads(text.rstrip("\r\n"))  # else the end of a cut line reads as a sign that is not allowed
    except json.JSONDecodeError as error:
        reason = f"not JSON at column {error.colno}: {why(error)}"
        raise InputError(f"{where}: {reason}; each line must be one JSON object, such as {EXAMPLE}") from None
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half of a surrogate pair; write the character itself") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply; a prompt pair is a flat object") from None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


ARRAY = (
    "a JSON array, and JSON Lines has one object on each line: write every object on a line of its own, without the "
    "brackets and the commas between them"
)
EXAMPLE = '{"base": "The nurse said that", "answers": [" she", " he"]}'


def _rows(records: Iterable[Mapping[str, Any]] | pd.DataFrame) -> Iterable[object]:
    """The rows of the argument."""
    if all(hasattr(records, name) for name in ("to_dict", "columns", "astype")):
        return _frame_rows(records)
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        kind = type(records).__name__
        raise InputError(f"records of type {kind}: give a list of dicts or a DataFrame; a file goes to Task.from_jsonl")
    return records


def _frame_rows(frame: Any) -> Iterator[dict[str, Any]]:
    double = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if double:
        raise InputError(f"the DataFrame has several columns {double[0]!r}; keep one")
    yield from frame.astype(object).to_dict("records")


def _plain_record(row: object, where: str) -> object:
    """The row without its fields of no value, in the types that JSON has."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: is of type {type(row).__name__}; give a dict of the JSON Lines format's fields")
    return {str(name): _plain(value) for name, value in row.items() if not _is_missing(value)}


def _is_missing(value: object) -> bool:
    """Whether it is None, or what tables write where a cell is empty: NaN, NaT or NA."""
    not_a_number = isinstance(value, Real) and bool(value != value)
    return value is None or not_a_number or type(value).__name__ in ("NaTType", "NAType")


def _plain(value: Any) -> Any:
    """Value with arrays, tuples and numpy scalars as lists and Python numbers."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
