"""CSV for spreadsheets: text that they would run as a formula is written so that they show it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cotrace.visible import visible

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A text cell that begins so is taken for a formula, or for the cells behind it. (OWASP, CSV injection.)"""


def safe_cell(value: Any) -> Any:
    """The value; a text that a spreadsheet would run gets an apostrophe before it, and what would steer a terminal is
    written out. Numbers stay as they are."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(FORMULA) else visible(value)


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as UTF-8 CSV (RFC 4180); None is empty, floats are written so that they read back the same."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its CRLF is also why a line break within a cell, of either kind, is quoted
    writer.writerow([safe_cell(column) for column in columns])
    writer.writerows([safe_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue().encode()


def frame_csv(frame: pd.DataFrame) -> bytes:
    """A DataFrame as such CSV, without its index; a value that is not there is empty."""
    plain = frame.astype(object).where(frame.notna(), None)
    columns = [str(column) for column in frame.columns]
    return csv_bytes(columns, (dict(zip(columns, row, strict=True)) for row in plain.to_numpy().tolist()))
