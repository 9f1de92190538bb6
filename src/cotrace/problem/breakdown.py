"""Breakdown: the effect of one mask on each subgroup of the pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cotrace.arguments import guarded
from cotrace.errors import InputError
from cotrace.problem.pairs import PairProblem
from cotrace.problem.whole import SetProblem
from cotrace.prompts.fields import indices_by
from cotrace.results import Table
from cotrace.results.tables import number
from cotrace.statistics import Interval, Units, interval_text, mean_interval, share_interval

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
Labels = Sequence[str] | None
"""What each pair stays together with; None where each stands for itself."""


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


def breakdown(problem: PairProblem | SetProblem, masks: Any, by: str, clusters: Labels = None) -> Breakdown:
    """Effects of one mask by a field of the pairs; ``clusters`` says which of them stay together.

    In ``keep`` mode an effect is a share of the mean full swap over all pairs, and so is its interval. Raises
    InputError, UnknownName.
    """
    if problem.masks(masks).ndim != 1:
        raise InputError("a breakdown is of one mask: give one Selection, one list of names or one tensor [n]")
    groups = indices_by([encoded.pair for encoded in problem.scorer.pairs], by)
    everything = {ALL: list(range(problem.size))}
    make = _pair_rows if isinstance(problem, PairProblem) else _set_rows
    rows = [*make(problem, masks, groups, clusters), *make(problem, masks, everything, clusters)]  # type: ignore[arg-type]
    return Breakdown(metric=problem.metric.name, by=by, rows=tuple(rows))


def _pair_rows(
    problem: PairProblem, masks: Any, groups: dict[str, list[int]], clusters: Labels
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
    problem: SetProblem, masks: Any, groups: dict[str, list[int]], clusters: Labels
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
    """Of the mean over some pairs; of faithfulness with what it is divided by, the mean full swap of all pairs."""
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
