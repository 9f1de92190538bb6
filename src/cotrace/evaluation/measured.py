"""Measurement: base and donor values of a metric, flips, by subgroup, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cotrace.results import Table
from cotrace.results.table import number
from cotrace.statistics import Interval, interval_text
from cotrace.text import escape
from cotrace.validation import guarded

if TYPE_CHECKING:
    import pandas as pd

ALL = "all pairs"
MOST_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class Row:
    """One subgroup. A figure that was not or cannot be computed is None."""

    field: str
    """Field of the pairs that the subgroup shares; empty for all pairs."""
    value: str
    pairs: int
    base: float | None
    """Weighted mean level after the base prompts, or the one number of a metric of the whole set."""
    base_interval: Interval | None = None
    base_median: float | None = None
    donor: float | None = None
    """The same after the counterfactual prompts, with the pair's own target, label and group."""
    donor_interval: Interval | None = None
    donor_median: float | None = None
    flips: float | None = None
    """Share of pairs whose likeliest answer differs between the two prompts; None where pairs have one answer."""
    flips_interval: Interval | None = None
    selection_rate: float | None = None
    """Share of the pairs that choose the favourable answer after the base prompt."""


@guarded("Measurement", fields=False)
@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A model's behaviour on a task before any search. Prints as a table."""

    model: str
    task: str
    metric: str
    rows: tuple[Row, ...]
    """The first is over all pairs."""
    soft: tuple[float, float | None] | None = None
    """(base, donor) of the soft form that searches follow, where the reported one is hard."""
    selection_rate_ratio: tuple[float | None, float | None] | None = None
    """(base, donor): smallest / largest selection rate over groups, for group metrics; None where no group selects."""
    refused: tuple[tuple[str, str], ...] = ()
    """(id, reason) of the pairs that could not be scored."""
    confidence: float = 0.95

    def __repr__(self) -> str:
        return f"Measurement({self.metric} of {self.model} on {self.task}, {len(self.rows)} rows)"

    def __getitem__(self, value: str) -> Row:
        """The row of that subgroup."""
        return next(row for row in self.rows if row.value == value)

    @property
    def overall(self) -> Row:
        """The row over all pairs."""
        return self.rows[0]

    def table(self) -> Table:
        """The rows for people, without the columns that are empty."""
        cells = [_cells(row) for row in self.rows[:MOST_ROWS]]
        kept = [i for i in range(len(HEADS)) if any(row[i] for row in cells)]
        rows = [[row[i] for i in kept] for row in cells]
        title = f"{self.metric} of {self.model} on {self.task}, with {self.confidence:.0%} intervals"
        return Table(title, [HEADS[i] for i in kept], rows, frozenset({0}))

    @property
    def notes(self) -> list[str]:
        """Facts beside the table, in sentences."""
        lines = []
        if self.soft is not None:
            lines.append(
                f"Soft form, which searches follow: base {number(self.soft[0], signed=False)}" + _donor(self.soft)
            )
        if self.selection_rate_ratio is not None:
            ratio = self.selection_rate_ratio
            lines.append(f"Selection-rate ratio: base {number(ratio[0], signed=False) or 'undefined'}" + _donor(ratio))
        if len(self.rows) > MOST_ROWS:
            lines.append(f"{len(self.rows) - MOST_ROWS} more subgroups are in to_frame()")
        if self.refused:
            lines.append(f"{len(self.refused)} pairs refused; the first: {self.refused[0][1]}")
        return lines

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + "".join(map(escape.paragraph, self.notes))

    def __str__(self) -> str:
        return "\n".join([str(self.table()), *self.notes])

    def to_frame(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Inverse of ``to_dict``, also after a way through JSON."""
        rows = tuple(Row(**{name: _tuple(value) for name, value in row.items()}) for row in data["rows"])
        rest = {name: _tuple(value) for name, value in data.items() if name not in ("rows", "refused", "schema")}
        return cls(rows=rows, refused=tuple(map(_tuple, data["refused"])), **rest)


HEADS = (
    "pairs of",
    "pairs",
    "base",
    "interval",
    "median",
    "donor",
    "interval",
    "median",
    "flips",
    "interval",
    "selected",
)


def _cells(row: Row) -> tuple[str, ...]:
    name = row.value if not row.field else f"{row.field} = {row.value or '(none)'}"
    base = (
        number(row.base, signed=False),
        interval_text(row.base_interval, ".3g"),
        number(row.base_median, signed=False),
    )
    donor = (
        number(row.donor, signed=False),
        interval_text(row.donor_interval, ".3g"),
        number(row.donor_median, signed=False),
    )
    flips = (_percent(row.flips), interval_text(row.flips_interval, ".0%"))
    return (name, str(row.pairs), *base, *donor, *flips, _percent(row.selection_rate))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _donor(values: tuple[float | None, float | None]) -> str:
    return "" if values[1] is None else f", donor {number(values[1], signed=False)}"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
