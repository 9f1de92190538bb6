"""Pairs in files: the JSON Lines format and its schema, CSV and TSV, and DataFrames."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cotrace.errors import InputError, unknown
from cotrace.prompts.pair import PromptPair
from cotrace.text.files import clipped, loads, parse_json, read_text, schema_of, shortened

if TYPE_CHECKING:
    import pandas as pd
    from jsonschema import Draft202012Validator, ValidationError

KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
"""How JSON's other values are called."""
ELSEWHERE = {
    **dict.fromkeys(("prompt", "clean", "context", "question", "sentence", "text", "input"), "base"),
    **dict.fromkeys(("corrupt", "corrupted", "counterfactual_prompt", "source"), "counterfactual"),
    **dict.fromkeys(("choices", "options", "continuations", "candidates"), "answers"),
    **dict.fromkeys(("answerKey", "answer_index", "correct", "gold"), "target"),
}
"""Name of a field in other formats (MIB, auto-circuit, question sets) -> its name here."""
EXACT = 2**53
"""Smallest whole number above which floats skip some."""


def pair_of(record: object, where: str, default_id: str) -> PromptPair:
    """The pair of a record. Raises InputError that begins with ``where`` and names field, reason and remedy."""
    _check(record, where)
    assert isinstance(record, Mapping)
    try:
        fields = {name: _CONVERT[name](value) if name in _CONVERT else value for name, value in record.items()}
        return PromptPair(**{"id": default_id, **fields, "spans": _with_subject(fields)})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def record_of(pair: PromptPair) -> dict[str, Any]:
    """The record of a pair, as a JSON object without the fields that hold their default: inverse of ``pair_of``."""
    record = {"id": pair.id, "answers": list(pair.answers), **dict(_set_fields(pair))}
    return {name: record[name] for name in properties() if name in record}


def _set_fields(pair: PromptPair) -> Iterator[tuple[str, Any]]:
    for name, default in _DEFAULTS.items():
        value = getattr(pair, name)
        if value != default:
            yield name, _TO_JSON[name](value) if name in _TO_JSON else value


def _with_subject(fields: Mapping[str, Any]) -> Mapping[str, tuple[int, int]]:
    """The spans, with the first place of ``subject`` where it is given as text; in a chat it is found once rendered."""
    spans: dict[str, tuple[int, int]] = fields.get("spans", {})
    base, subject = fields.get("base"), fields.get("subject")
    if base is None or subject is None:
        return spans
    start, end = spans.get("subject") or (base.find(subject), base.find(subject) + len(subject))
    if start < 0:
        raise InputError(f"'subject' is {subject!r}, which does not occur in base; copy it from there")
    if base[start:end] != subject:
        raise InputError(f"'subject' is {subject!r}, but spans.subject holds {base[start:end]!r}; give one of the two")
    return {**spans, "subject": (start, end)}


def schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of one line."""
    return cast("Mapping[str, Any]", _validator().schema)


def _validator() -> Draft202012Validator:
    return schema_of("cotrace.prompts", "pair.schema.json")


def properties() -> Mapping[str, Mapping[str, Any]]:
    """Name -> schema of every field, in the order of the format's table."""
    fields: Mapping[str, Mapping[str, Any]] = schema()["properties"]
    return fields


def _check(record: object, where: str) -> None:
    if not isinstance(record, Mapping):
        kind = KINDS.get(type(record), type(record).__name__)
        raise InputError(f"{where}: is {kind}, not an object; a line is an object with 'base' and 'answers'")
    check_fields(record, where)
    error = min(_validator().iter_errors(record), key=_urgency, default=None)
    if error is not None:
        raise InputError(f"{where}: {_sentence(error)}")


def check_fields(names: Iterable[object], where: str) -> None:
    """Raise InputError for a field that the format does not have; the names that other formats use are translated."""
    for name in names:
        if name not in properties():
            meant = ELSEWHERE.get(str(name))
            error = unknown("field", name, properties(), meant=meant)
            raise InputError(f"{where}: {error}; keep anything else under 'meta'")


def _urgency(error: ValidationError) -> tuple[bool, str]:
    """A field that is there and wrong comes before one that is missing; then by place, so that messages are stable."""
    return not error.absolute_path, error.json_path


def _sentence(error: ValidationError) -> str:
    """One line for a schema error: the field, what is wrong, what to write instead."""
    if error.validator == "oneOf" and not error.absolute_path:
        return "needs a prompt: give 'base' (text) or 'messages' (chat), one of the two"
    if error.validator == "dependentRequired":
        return f"{error.message}; give both or neither"
    if not error.absolute_path:
        return f"{error.message}; {properties()['answers']['description']}"  # the one required field
    path = "".join(f"[{part!r}]" if i else str(part) for i, part in enumerate(error.absolute_path))
    remedy = properties()[str(error.absolute_path[0])]["description"]
    return f"'{path}': {clipped(error.message)}; {remedy}"


def _label(value: str | float) -> str:
    """A name as text; whole numbers that a table keeps as floats, since its column has gaps, are written as such."""
    if isinstance(value, float) and abs(value) >= EXACT:
        raise InputError(f"{value:g} is a float that may have been rounded; give ids and groups as text")
    return str(int(value) if isinstance(value, float) else value)


def _spans(spans: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {role: (int(start), int(end)) for role, (start, end) in spans.items()}


def _spans_json(spans: Mapping[str, tuple[int, int]]) -> dict[str, list[int]]:
    return {role: list(span) for role, span in spans.items()}


_CONVERT: Mapping[str, Any] = {
    **dict.fromkeys(("id", "group", "split_group"), _label),
    **dict.fromkeys(("target", "target_counterfactual", "label", "favourable"), int),
    **dict.fromkeys(("answers", "messages", "counterfactual_messages"), tuple),
    **dict.fromkeys(("spans", "counterfactual_spans"), _spans),
    "weight": float,
}
_TO_JSON: Mapping[str, Any] = {
    **dict.fromkeys(("spans", "counterfactual_spans"), _spans_json),
    **dict.fromkeys(("messages", "counterfactual_messages"), list),
    "meta": dict,
}
_DEFAULTS: Mapping[str, Any] = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in dataclass_fields(PromptPair)
    if field.name not in ("id", "answers")
}


DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Ending of a file's name -> what stands between its cells."""
EXAMPLES = {
    "answers": '[" she", " he"]',
    "spans": '{"subject": [4, 9]}',
    "messages": '[{"role": "user", "content": "Who?"}]',
    "meta": '{"source": "mine"}',
}


def records_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (``pairs.csv:2``) and record of each row; empty cells are left out. Raises InputError."""
    delimiter = DELIMITERS[path.suffix.lower()]
    reader = csv.reader(read_text(path).splitlines(keepends=True), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            where = f"{path.name}:{reader.line_num}"
            if not any(map(str.strip, cells)):
                continue
            if header is None:
                header = _header(cells, delimiter, where)
            else:
                yield where, _record(header, cells, where)
    except csv.Error as error:
        reason = f"{error}; put a cell that holds quotes or separators in quotes, and double the quotes inside"
        raise InputError(f"{path.name}:{reader.line_num}: {reason}") from None


def _header(cells: Sequence[str], delimiter: str, where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1 and ";" in names[0]:
        right = {",": "commas", "\t": "tabs"}[delimiter]
        raise InputError(f"{where}: the cells are separated by semicolons; save the file with {right} between them")
    check_fields(names, where)
    double = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if double is not None:
        raise InputError(f"{where}: the column {double!r} stands twice; keep one")
    return names


def _record(header: Sequence[str], cells: Sequence[str], where: str) -> dict[str, Any]:
    if len(cells) != len(header):
        raise InputError(
            f"{where}: has {len(cells)} cells and the header {len(header)}; put a cell that holds a separator in "
            "quotes, and double the quotes inside"
        )
    return {name: _value(name, cell, where) for name, cell in zip(header, cells, strict=True) if cell.strip()}


def _value(name: str, cell: str, where: str) -> Any:
    """The cell of a field of text as it is, any other as JSON."""
    if "string" in properties()[name].get("type", ()):
        return cell
    try:
        return loads(cell)
    except (json.JSONDecodeError, UnicodeEncodeError, RecursionError, ValueError):
        example = EXAMPLES.get(name.removeprefix("counterfactual_"), "1")
        raise InputError(f"{where}: {name!r} is {shortened(cell)}; write it as JSON, such as {example}") from None


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
    text = text.rstrip("\r\n")  # else the end of a cut line reads as a sign that is not allowed
    return parse_json(text, where, line=f"each line must be one JSON object, such as {EXAMPLE}")


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
