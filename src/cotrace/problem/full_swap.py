"""The full swap, which says whether there is anything to find and in which direction; and effects by subgroup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cotrace.errors import InputError
from cotrace.metrics import AnyMetric, SetMetric
from cotrace.problem.protocol import Direction
from cotrace.problem.scored import PairProblem
from cotrace.problem.set_metric import SetProblem
from cotrace.prompts.pair import indices_by
from cotrace.results import Table
from cotrace.results.table import number
from cotrace.statistics import Interval, Units, covers, interval_text, mean_interval, set_interval, share_interval
from cotrace.validation import guarded

if TYPE_CHECKING:
    import pandas as pd

DIRECTIONS = "direction='maximise' or direction='minimise'"


@dataclass(frozen=True)
class FullSwap:
    """Effect of the full swap on the metric, on the pairs that a search sees."""

    metric: str
    pairs: int
    base_level: float
    """Level in the base run: the median over pairs, or the one number of a metric of the whole set."""
    swapped_level: float
    mean: float
    """Weighted mean effect, or the one number."""
    median: float | None
    """Median effect; None, like ``agreeing``, where the metric has no effect of each pair."""
    agreeing: int | None
    """Pairs whose effect has the sign of the mean."""
    interval: Interval | None
    """Bootstrap interval of it; None where there are too few pairs."""
    reported: Interval | None = None
    """(base run, full swap) of the metric as people read it, where searches see a surrogate."""
    rounding: float = 0.0
    """Largest mean that rounding alone can make."""

    @property
    def covers_zero(self) -> bool:
        """Whether the interval leaves open that swapping everything does nothing."""
        return covers(self.interval)

    @property
    def is_clear(self) -> bool:
        """Whether swapping everything is shown to do something: beyond rounding, and the interval does not cover 0."""
        return self.why == ""

    @property
    def why(self) -> str:
        """Why these pairs do not show what swapping everything does; empty where they do."""
        return unclear("the full swap's effect", self.mean, self.interval, self.rounding)

    @property
    def caution(self) -> str:
        """Warning for pairs that show no effect, printed first; else empty."""
        return "" if self.is_clear else f"No effect is shown: {self.why}; "

    @property
    def words(self) -> str:
        """One or two sentences, after the ``caution``."""
        text = f"swapping everything moves {self.metric.replace('_', ' ')} by {self.mean:+.3g}"
        if self.median is None:
            text += f" (level {self.base_level:.3g} to {self.swapped_level:.3g} over {self.pairs} pairs)"
        else:
            text += (
                f" on average (median {self.median:+.3g}; median level {self.base_level:.3g} to "
                f"{self.swapped_level:.3g}); {self.agreeing} of {self.pairs} pairs agree"
            )
        if self.reported is not None:
            text += ". As reported, from {:.3g} to {:.3g}; searches follow its soft form".format(*self.reported)
        return text


def unclear(what: str, mean: float, interval: Interval | None, rounding: float) -> str:
    """Why a mean effect shows no direction: its interval covers 0, or it is within rounding; empty where it does."""
    if covers(interval):
        return f"the 95 % interval {interval_text(interval)} of {what} covers 0"
    return "" if abs(mean) > rounding else f"{what} is within rounding ({rounding:.1g})"


def full_swap(problem: PairProblem | SetProblem, clusters: Sequence[str] | None = None) -> FullSwap:
    """Measure the full swap on a problem's pairs; ``clusters`` says which of them stay together."""
    return _of_pairs(problem, clusters) if isinstance(problem, PairProblem) else _of_set(problem, clusters)


def _of_pairs(problem: PairProblem, clusters: Sequence[str] | None) -> FullSwap:
    effects, weight = problem.full_swap, problem.answers.weight
    units = Units.made(problem.size, weight.double().numpy(), clusters)
    mean = ((effects * weight).sum() / weight.sum()).item()
    return FullSwap(
        metric=problem.metric.name,
        pairs=problem.size,
        base_level=_median(problem.base_levels),
        swapped_level=_median(problem.full_levels),
        mean=mean,
        median=_median(effects),
        agreeing=int((torch.sign(effects) == np.sign(mean)).sum()),
        interval=mean_interval(effects.double().numpy(), units),
        reported=_reported(problem),
        rounding=problem.rounding,
    )


def _median(values: Tensor) -> float:
    """Return the median; of an even count the mean of the middle two, where torch takes the lower one."""
    return float(np.median(values.double().cpu().numpy()))


def _of_set(problem: SetProblem, clusters: Sequence[str] | None) -> FullSwap:
    base, full, answers, number = problem.base_table, problem.full_table, problem.answers, problem.number
    units = Units.made(problem.size, answers.weight.double().numpy(), clusters, problem.strata)
    interval = set_interval(lambda counts: number.value(full, base, answers.drawn(counts)), units)
    return FullSwap(
        metric=problem.metric.name,
        pairs=problem.size,
        base_level=number.soft_level(base, base, answers).item(),
        swapped_level=number.soft_level(full, base, answers).item(),
        mean=problem.full_swap.item(),
        median=None,
        agreeing=None,
        interval=interval,
        reported=_reported(problem),
        rounding=problem.rounding,
    )


def _reported(problem: PairProblem | SetProblem) -> Interval | None:
    if not problem.metric.surrogate:
        return None
    if isinstance(problem, PairProblem):
        return problem.reported_base, problem.full_reported.item()
    full = problem.number.reported(problem.full_table, problem.base_table, problem.answers)
    return problem.reported_base, full.item()


class NoDirection(InputError):
    """Error: no direction was given, and the full swap shows none; nothing is guessed from rounding or chance."""

    def __init__(self, swap: FullSwap, remedy: str = DIRECTIONS) -> None:
        moves = f"swapping everything moves {swap.metric.replace('_', ' ')} by {swap.mean:+.3g}"
        super().__init__(f"{moves}, which shows no direction to search in, as {swap.why}: give {remedy}")
        self.swap = swap

    @property
    def for_command_line(self) -> NoDirection:
        """The same with the option that gives one there."""
        return NoDirection(self.swap, "--direction maximise or --direction minimise")


def preferred(swap: FullSwap, mode: str, metric: AnyMetric) -> Direction | None:
    """The direction that a search takes unless told: that of the full swap; None where it shows none.

    Faithfulness is always maximised, a gap minimised, and what nears a target brought nearer.
    """
    if mode == "keep":
        return "maximise"
    if isinstance(metric, SetMetric) and metric.direction is not None:
        return metric.direction
    if not swap.is_clear:
        return None
    return "maximise" if swap.mean > 0 else "minimise"


ALL = "all"
Labels = Sequence[str] | None
"""The group of each pair; None where each stands for itself."""


@dataclass(frozen=True, kw_only=True)
class SubgroupEffect:
    """One row: the pairs that share a value of the field."""

    value: str
    pairs: int
    effect: float | None
    """Weighted mean effect; None for a metric of the whole set, which has only levels."""
    interval: Interval | None
    """Bootstrap interval of it; None where there are too few pairs."""
    median: float | None
    moved_share: float | None
    """Share of the pairs whose effect has the sign of the mean over all pairs."""
    base: float
    """Level in the base run, as reported; for a group metric the rate that it compares."""
    level: float
    """Level under the mask."""


@guarded("Breakdown", fields=False)
@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Effects by subgroup. Prints as a table."""

    metric: str
    by: str
    rows: tuple[SubgroupEffect, ...]
    """One for each value of the field, and one for all pairs."""

    def __repr__(self) -> str:
        return f"Breakdown({self.metric} by {self.by}, {len(self.rows)} rows)"

    def table(self) -> Table:
        """The rows for people."""
        heads = (self.by, "pairs", "effect", "interval", "median", "moved", "base level", "level")
        return Table(f"{self.metric} by {self.by}", heads, [_cells(row) for row in self.rows], frozenset({0}))

    def to_frame(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"metric": self.metric, "by": self.by, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        return str(self.table())


def _cells(row: SubgroupEffect) -> tuple[str, ...]:
    interval = interval_text(row.interval)
    moved = "" if row.moved_share is None else f"{row.moved_share:.0%}"
    levels = (number(row.base, signed=False), number(row.level, signed=False))
    return (row.value or "(none)", str(row.pairs), number(row.effect), interval, number(row.median), moved, *levels)


def breakdown(problem: PairProblem | SetProblem, masks: Tensor, by: str, clusters: Labels = None) -> Breakdown:
    """Effects of one mask by a field of the pairs; ``clusters`` says which of them stay together.

    In ``keep`` mode an effect is a share of the mean full swap over all pairs, and so is its interval. Raises
    InputError, UnknownName.
    """
    if masks.ndim != 1:
        raise InputError("a breakdown is of one mask: give one Selection, one list of names or one tensor [n]")
    groups = indices_by([encoded.pair for encoded in problem.scorer.pairs], by)
    everything = {ALL: list(range(problem.size))}
    make = _pair_rows if isinstance(problem, PairProblem) else _set_rows
    rows = [*make(problem, masks, groups, clusters), *make(problem, masks, everything, clusters)]  # type: ignore[arg-type]
    return Breakdown(metric=problem.metric.name, by=by, rows=tuple(rows))


def _pair_rows(
    problem: PairProblem, masks: Tensor, groups: dict[str, list[int]], clusters: Labels
) -> Iterator[SubgroupEffect]:
    effects, weight = problem.effects(masks).double(), problem.answers.weight.double()
    levels = problem.reported_levels(masks).double()
    base = problem.base_reported.double()
    sign = torch.sign((effects * weight).sum())
    full = problem.full_swap.double() if problem.mode == "keep" else None
    for value, members in groups.items():
        some, by = effects[members], weight[members]
        yield SubgroupEffect(
            value=value,
            pairs=len(members),
            effect=_mean(some, by),
            interval=_interval(effects, weight, members, clusters, full),
            median=float(np.median(some.numpy())),
            moved_share=(torch.sign(some) == sign).double().mean().item(),
            base=_mean(base[members], by),
            level=_mean(levels[members], by),
        )


def _set_rows(
    problem: SetProblem, masks: Tensor, groups: dict[str, list[int]], clusters: Labels
) -> Iterator[SubgroupEffect]:
    metric, answers, base = problem.metric, problem.answers, problem.scorer.base
    if metric.rates is None:
        raise InputError(f"{metric.name} is one number for the whole set, made of no rates that could be broken down")
    before, after = (metric.rates(scores, answers).double() for scores in (base, problem.scores(masks)))
    for value, members in groups.items():
        by = answers.weight[members].double()
        yield SubgroupEffect(
            value=value,
            pairs=len(members),
            effect=_mean(after[members] - before[members], by),
            interval=_interval(after - before, answers.weight.double(), members, clusters),
            median=None,
            moved_share=(after != before)[members].double().mean().item(),
            base=_mean(before[members], by),
            level=_mean(after[members], by),
        )


def _interval(
    effects: Tensor, weight: Tensor, members: list[int], clusters: Labels, full: Tensor | None = None
) -> Interval | None:
    """Return the interval of the mean over some pairs; of faithfulness with its divisor, the full swap."""
    if full is None:
        labels = None if clusters is None else [clusters[i] for i in members]
        return mean_interval(effects[members].numpy(), Units.made(len(members), weight[members].numpy(), labels))
    own = torch.zeros_like(weight)
    own[members] = weight[members]
    shares = full * weight.sum() / (full * weight).sum()
    units = Units.made(len(weight), weight.numpy(), clusters)
    return share_interval(effects.numpy(), own.numpy(), shares.numpy(), units)


def _mean(values: Tensor, weight: Tensor) -> float:
    return ((values * weight).sum() / weight.sum()).item()
