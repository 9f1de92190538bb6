"""Evaluation: everything that is known about how sure a result is, as one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cotrace.evaluation._records import (
    Alternative,
    Certificate,
    Completeness,
    Controls,
    Difference,
    Faithfulness,
    ForeignSet,
    Interactions,
    Minimality,
    OffManifold,
    SideEffect,
    SizeEvidence,
    Stability,
)
from cotrace.results import Table
from cotrace.results.effects import HardFigure
from cotrace.results.table import number
from cotrace.statistics import Interval, covers, interval_text
from cotrace.text import escape
from cotrace.text.files import made_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One result, judged. Prints as a verdict in words and a table; parts that a level leaves out are None."""

    level: str
    """``quick``, ``standard`` or ``full``."""
    search: str
    """Name of the search that is judged."""
    metric: str
    """Name of the metric."""
    task: str
    """Name of the task."""
    mode: str
    """``swap`` or ``keep``."""
    direction: str
    """``maximise`` or ``minimise``."""
    judged_on: str
    """Which pairs: ``held-out``, ``audit``, or ``training`` where nothing is held out."""
    pairs: int
    """Number of pairs that judge."""
    units: str
    """The resampled units, in words."""
    k: int
    """Size of the selection that is judged in detail; fixed on the training pairs unless given."""
    components: tuple[str, ...]
    """Names of the selection's members."""
    full_effect: float
    """Effect of everything together on these pairs."""
    full_interval: Interval | None
    """Its interval; None with too few pairs."""
    sizes: tuple[SizeEvidence, ...]
    """One record for each size of the frontier."""
    full_is_clear: bool = True
    """Whether these pairs show by themselves that everything together moves the metric, beyond rounding and chance."""
    full_is_clear_training: bool = True
    """The same of the pairs searched."""
    hard: HardFigure | None = None
    """The metric on these pairs as people read it, before and under the selection, where searches see a soft form."""
    hard_training: HardFigure | None = None
    """The same on the pairs searched."""
    median_interval: Interval | None = None
    """Interval of the chosen selection's median effect."""
    training_effect: float | None = None
    """Effect of the selection on the pairs searched."""
    controls: Controls | None = None
    """Random sets of the same composition."""
    minimality: Minimality | None = None
    """Loss when each member leaves."""
    completeness: Completeness | None = None
    """Effect of everything outside the selection."""
    stability: tuple[Stability, ...] = ()
    """How often components are chosen again: by archive bootstrap, and by searching again."""
    alternatives: tuple[Alternative, ...] = ()
    """Other sets of the same size that do about as well."""
    interactions: Interactions | None = None
    """Effects of pairs of members, and Shapley values."""
    faithfulness: Faithfulness | None = None
    """Curve of the effect kept by size, with CPR and CMD."""
    side_effects: tuple[SideEffect, ...] = ()
    """Changes where nothing should change."""
    differences: tuple[Difference, ...] = ()
    """Paired differences to the other searches."""
    foreign: tuple[ForeignSet, ...] = ()
    """Figures of sets from elsewhere."""
    certificate: Certificate | None = None
    """The optimum of that size, or a bound."""
    off_manifold: tuple[OffManifold, ...] = ()
    """Sizes at which single pairs move further than under the full swap."""
    forward_equivalents: float = 0.0
    """Cost of the evaluation: one mask on all pairs that are judged (or searched) is 1."""
    notes: tuple[str, ...] = ()
    """Figures that are missing, and why."""
    verdict: tuple[str, ...] = ()
    """The findings in sentences, with their numbers."""

    def __repr__(self) -> str:
        where = f"{self.metric} on {self.task}, {self.pairs} {self.judged_on} pairs"
        return f"Evaluation({self.level}, {self.search}, k = {self.k}, {where})"

    @property
    def full_shown(self) -> bool:
        """Whether an effect can be told as a share of everything's: that is not within rounding, nor may it be 0."""
        return self.full_is_clear and not covers(self.full_interval) and abs(self.full_effect) > 1e-9

    @property
    def chosen(self) -> SizeEvidence:
        """The evidence for the selection that is judged in detail."""
        return next(row for row in self.sizes if row.k == self.k)

    def table(self) -> Table:
        """One row for each size."""
        heads = ("k", "effect", "interval", "median", "moved", "random sets", "p", "p adjusted", "best singles")
        title = f"{self.search} ({self.mode}): {self.metric} on {self.units}, {self.judged_on}"
        return Table(title, heads, [_cells(row) for row in self.sizes], frozenset())

    def members_table(self) -> Table:
        """One row for each component of the selection: what it adds, and how often it comes back."""
        heads = ("component", "loss when it leaves", "interval", "p adjusted", "status", "selected again", "Shapley")
        return Table(
            f"The {self.k} selected", heads, [self._member(name) for name in self.components], frozenset({0, 4})
        ).without_empty()

    def _member(self, name: str) -> tuple[str, ...]:
        tested = {member.component: member for member in (self.minimality.members if self.minimality else ())}
        member = tested.get(name)
        again = f"{self.stability[0].inclusion.get(name, 0):.0%}" if self.stability else ""
        shapley = self.interactions.shapley if self.interactions else None
        share = number(shapley.values.get(name)) if shapley else ""
        if member is None:
            return (name, "", "", "", "", again, share)
        p = number(member.p_adjusted, signed=False)
        return (name, number(member.loss), interval_text(member.interval), p, member.status, again, share)

    def to_frame(self) -> pd.DataFrame:
        """The rows by size as a DataFrame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.sizes])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"verdict": list(self.verdict)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Evaluation:
        """Inverse of ``to_dict``.

        Args:
            data: The mapping that ``to_dict`` gave, or the JSON of ``evaluation.json``.
        """
        return made_of(cls, data)

    def _repr_html_(self) -> str:
        words = "".join(map(escape.paragraph, self.verdict))
        return words + self.members_table()._repr_html_() + self.table()._repr_html_()

    def __str__(self) -> str:
        return "\n".join([*self.verdict, str(self.table())])


def _cells(row: SizeEvidence) -> tuple[str, ...]:
    return (
        str(row.k),
        number(row.effect),
        interval_text(row.interval),
        number(row.median),
        "" if row.moved_share is None else f"{row.moved_share:.0%}",
        number(row.control_mean),
        number(row.p_value, signed=False),
        number(row.p_adjusted, signed=False),
        number(row.single_effect),
    )
