"""Outcomes: quantities before and after an edit, with intervals; and the trade-off between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from cotrace.results.table import Table, number
from cotrace.statistics import Interval, covers, interval_text
from cotrace.text.escape import json_bytes
from cotrace.text.files import made_of
from cotrace.validation import guarded

if TYPE_CHECKING:
    import pandas as pd

Harm = Literal["rise", "fall", "change"]
"""Kind of harm in a side effect: a relative rise (of a loss), a fall (of an accuracy), or any change."""


@dataclass(frozen=True)
class Shift:
    """A number before and after, with 95 % intervals where there are enough pairs."""

    pairs: int
    before: float
    after: float
    before_interval: Interval | None = None
    after_interval: Interval | None = None
    change_interval: Interval | None = None
    """Interval of after - before, pairs resampled together."""

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before

    @property
    def is_shown(self) -> bool:
        """Whether the interval of the change leaves 0 out."""
        return self.change_interval is not None and not covers(self.change_interval)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Fields that come first."""

    task: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Outcome(Shift, _Measured):
    """One metric on one task, before and after an edit."""

    @property
    def name(self) -> str:
        """Metric and task in words."""
        return f"{self.metric} on {self.task}"

    @property
    def share(self) -> float | None:
        """The change as a share of the value before; None where that is 0."""
        return self.change / abs(self.before) if self.before else None

    def harm(self, kind: Harm) -> float:
        """How much harm was done; negative where things got better."""
        if kind == "rise":
            return self.change / abs(self.before) if self.before else abs(self.change)
        return -self.change if kind == "fall" else abs(self.change)

    def row(self) -> dict[str, Any]:
        """Plain data, for tables and JSON."""
        return asdict(self) | {"change": self.change}


def outcome_table(title: str, outcomes: Sequence[Outcome]) -> Table:
    """One row for each outcome."""
    heads = ("what", "pairs", "before", "interval", "after", "interval", "change", "interval", "in %")
    return Table(title, heads, [outcome_cells(outcome) for outcome in outcomes], frozenset({0}))


def outcome_cells(one: Outcome) -> tuple[str, ...]:
    """The cells of its row."""
    return (
        one.name,
        str(one.pairs),
        number(one.before, signed=False),
        interval_text(one.before_interval, ".3g"),
        number(one.after, signed=False),
        interval_text(one.after_interval, ".3g"),
        number(one.change),
        interval_text(one.change_interval, ".3g"),
        "" if one.share is None else f"{one.share:+.1%}",
    )


@dataclass(frozen=True, kw_only=True)
class EditPoint:
    """One edit of a trade-off: a selection under a donor, what it does and what it costs."""

    k: int
    donor: str
    factor: float | None
    """The factor of ``scale``; 0 for ``zero``, None for other donors."""
    components: tuple[str, ...]
    strength: float
    """How far the traced metric moves where it should, on the pairs that the search saw."""
    outcome: Outcome
    """The traced metric on held-out pairs."""
    strength_heldout: float
    sides: tuple[Outcome, ...] = ()
    """Side effects, on held-out pairs."""
    harms: tuple[float, ...] = ()
    """The harm in each side effect."""
    allowed: bool = True
    """Whether every constraint holds."""
    pareto: bool = False
    """Whether no other edit is at least as strong at no more harm anywhere."""


@guarded("Tradeoff", fields=False)
@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """Edits over sizes and donors: strength against harm, with the Pareto set marked."""

    task: str
    metric: str
    aim: str
    """Which way the traced metric should move: maximise, minimise, or zero."""
    points: tuple[EditPoint, ...]
    harms: tuple[str, ...] = ()
    """Each kind of harm in words."""
    constraints: tuple[str, ...] = ()
    unseen: bool = True
    """Whether the pairs that are called held out here are others than those that the sets were chosen by."""

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Tradeoff({self.metric} on {self.task}, {len(self)} edits)"

    @property
    def pareto(self) -> tuple[EditPoint, ...]:
        """The edits that no other beats, by harm and strength on held-out pairs."""
        return tuple(point for point in self.points if point.pareto)

    @property
    def best(self) -> EditPoint | None:
        """The strongest edit, by the pairs that the search saw, that keeps every constraint; None where none does."""
        allowed = [point for point in self.points if point.allowed and point.strength > 0]
        return max(allowed, key=lambda point: (point.strength, -point.k), default=None)

    def table(self, most: int | None = None) -> Table:
        """One row for each edit; a star marks the Pareto set, an arrow the chosen one."""
        heads = (
            "",
            "k",
            "donor",
            "strength",
            "held out",
            "after",
            "interval",
            *(name.partition(":")[0] for name in self.harms),
        )
        best = self.best
        rows = [_point_cells(point, point is best) for point in self.points[:most]]
        title = f"{self.metric} on {self.task}, {self.points[0].outcome.before:.4g} before; aim {self.aim}"
        where = "training and held-out pairs" if self.unseen else "training pairs, twice: nothing was held out"
        title += f"\nstrength: its move on {where}; * Pareto set, > chosen"
        if self.harms:
            title += f"\nharm, on the second half of its data: {'; '.join(self.harms)}"
        if self.constraints:
            title += f"\nconstraints: {'; '.join(self.constraints)}"
        return Table(title, heads, rows, frozenset({2}))

    def to_frame(self) -> pd.DataFrame:
        """One row for each edit."""
        import pandas as pd

        return pd.DataFrame([self._row(point) for point in self.points])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def to_json(self) -> bytes:
        """The same as the bytes of a file."""
        return json_bytes(self.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Tradeoff:
        """Inverse of ``to_dict``. Raises ValueError for data of another form."""
        return made_of(cls, data)

    def _row(self, point: EditPoint) -> dict[str, Any]:
        one = point.outcome
        low, high = one.after_interval or (None, None)
        return {
            "k": point.k,
            "donor": point.donor,
            "factor": point.factor,
            "strength": point.strength,
            "strength_heldout": point.strength_heldout,
            "before": one.before,
            "after": one.after,
            "ci_low": low,
            "ci_high": high,
            **{f"harm: {name}": harm for name, harm in zip(self.harms, point.harms, strict=True)},
            "allowed": point.allowed,
            "pareto": point.pareto,
            "chosen": point is self.best,
            "components": " ".join(point.components),
        }


def _point_cells(point: EditPoint, chosen: bool) -> tuple[str, ...]:
    one = point.outcome
    mark = (">" if chosen else "") + ("*" if point.pareto else "")
    return (
        mark,
        str(point.k),
        point.donor,
        number(point.strength),
        number(point.strength_heldout),
        number(one.after, signed=False),
        interval_text(one.after_interval, ".3g"),
        *(f"{harm:+.2%}" for harm in point.harms),
    )


def pareto(strength: Sequence[float], harms: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other one beats: at least as strong and no more harm anywhere, and better in something."""

    def beats(a: int, b: int) -> bool:
        one, other = (strength[a], *(-h for h in harms[a])), (strength[b], *(-h for h in harms[b]))
        return all(x >= y for x, y in zip(one, other, strict=True)) and one != other

    count = range(len(strength))
    return [not any(beats(a, b) for a in count) for b in count]
