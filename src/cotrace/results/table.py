"""Table: rows for people. Prints as text, shows as HTML in a notebook; built on rich."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rich.table as rich_table
from rich import box
from rich.console import Console
from rich.markup import escape as escape_markup

from cotrace import markup

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A titled table of text cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset()
    """Columns that hold words, set left and wrapped; the others hold numbers."""

    def rich(self) -> rich_table.Table:
        """The table as a rich renderable."""
        table = rich_table.Table(title=self.title or None, title_justify="left", box=box.SIMPLE_HEAD)
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="left" if i in self.left else "right", no_wrap=i not in self.left)
        for row in self.rows:
            table.add_row(*(escape_markup(cell) for cell in row))
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
        return markup.table(self.title, self.columns, self.rows, self.left)
