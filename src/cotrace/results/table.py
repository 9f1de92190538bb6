"""Table: rows for people. Prints as text, shows as HTML in a notebook, is written as CSV; built on rich."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rich.table as rich_table
from rich import box
from rich.console import Console
from rich.text import Text

from cotrace.text import escape
from cotrace.text.escape import visible

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


@dataclass(frozen=True)
class Table:
    """A titled table of text cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset()
    """Columns that hold words, set left and wrapped; the others hold numbers."""

    def without_empty(self) -> Table:
        """The table without the columns in which no row has anything; the first stays."""
        kept = [i for i in range(len(self.columns)) if i == 0 or any(row[i] for row in self.rows)]
        return Table(
            self.title,
            [self.columns[i] for i in kept],
            [tuple(row[i] for i in kept) for row in self.rows],
            frozenset(new for new, old in enumerate(kept) if old in self.left),
        )

    def rich(self) -> rich_table.Table:
        """The table as a rich renderable."""
        title = Text(visible(self.title), style="table.title") if self.title else None
        table = rich_table.Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for i, column in enumerate(self.columns):
            table.add_column(_shown(column), justify="left" if i in self.left else "right", no_wrap=i not in self.left)
        for row in self.rows:
            table.add_row(*map(_shown, row))
        return table

    def __rich__(self) -> rich_table.Table:
        return self.rich()

    def __str__(self) -> str:
        console = Console(width=110, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(self.rich())
        return capture.get().rstrip("\n")

    __repr__ = __str__

    def to_frame(self) -> pd.DataFrame:
        """The cells as they are shown, as text."""
        import pandas as pd

        return pd.DataFrame([list(row) for row in self.rows], columns=list(self.columns))

    def _repr_html_(self) -> str:
        return escape.table(self.title, self.columns, self.rows, self.left)


def _shown(text: str) -> Text:
    """A text that rich shows sign by sign, whether or not it looks for markup."""
    return Text(visible(text))


def number(value: float | None, signed: bool = True, digits: int = 4) -> str:
    """A figure with so many significant digits; empty where it was not computed."""
    return "" if value is None else f"{value:{'+' if signed else ''}.{digits}g}"


def shorten(names: Sequence[str], most: int = 12, between: str = " ") -> str:
    """The first names, and how many more there are."""
    shown = between.join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def in_words(names: Iterable[str]) -> str:
    """Return the names as in ``heads, neurons and experts``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def ranges(sizes: list[int]) -> str:
    """``1-5, 7`` for ``[1, 2, 3, 4, 5, 7]``."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and size == runs[-1][-1] + 1:
            runs[-1].append(size)
        else:
            runs.append([size])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) or "none"
