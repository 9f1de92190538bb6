"""Table: rows for people. Prints as text, shows as HTML in a notebook; built on rich."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rich.table as rich_table
from rich import box
from rich.console import Console
from rich.text import Text

from cotrace import markup
from cotrace.visible import visible

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
        return markup.table(self.title, self.columns, self.rows, self.left)


def _shown(text: str) -> Text:
    """A text that rich shows sign by sign, whether or not it looks for markup."""
    return Text(visible(text))
