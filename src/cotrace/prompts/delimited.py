"""Pairs in CSV and TSV: a header with the fields' names, a row for each pair, JSON in cells of lists and numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cotrace.errors import InputError
from cotrace.json_file import loads, read_text, shortened
from cotrace.prompts.record import check_fields, properties

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
