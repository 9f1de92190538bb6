"""The question in words: what swapping everything does, in which direction, and whether the data show it at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cotrace.problem.intervals import Interval, Labels, mean_interval
from cotrace.problem.pairs import PairProblem
from cotrace.problem.protocol import Direction
from cotrace.problem.whole import SetProblem


@dataclass(frozen=True)
class FullSwap:
    """What the full swap does to the metric, on the pairs that a search sees."""

    metric: str
    pairs: int
    base_level: float
    """Level in the base run: the median over pairs, or the one number of a metric of the whole set."""
    swapped_level: float
    mean: float
    """Weighted mean effect, or the one number."""
    median: float | None
    """None, like ``agreeing``, where the metric has no effect of each pair."""
    agreeing: int | None
    """Pairs whose effect has the sign of the mean."""
    interval: Interval | None
    """Bootstrap interval of the mean; None where there are too few pairs, or no effect of each."""
    reported: Interval | None = None
    """(base run, full swap) of the metric as people read it, where searches see a surrogate."""

    @property
    def covers_zero(self) -> bool:
        """Whether the interval leaves open that swapping everything does nothing."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]

    @property
    def words(self) -> str:
        """One or two sentences."""
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
        if self.covers_zero and self.interval is not None:
            low, high = self.interval
            text += f". The 95 % interval {low:+.3g} .. {high:+.3g} covers 0: these pairs do not show an effect"
        return text


def full_swap(problem: PairProblem | SetProblem, clusters: Labels = None) -> FullSwap:
    """Measure the full swap on a problem's pairs; ``clusters`` says which of them stay together."""
    return _of_pairs(problem, clusters) if isinstance(problem, PairProblem) else _of_set(problem)


def _of_pairs(problem: PairProblem, clusters: Labels) -> FullSwap:
    effects, weight = problem.full_swap, problem.answers.weight
    mean = ((effects * weight).sum() / weight.sum()).item()
    return FullSwap(
        metric=problem.metric.name,
        pairs=problem.size,
        base_level=_median(problem.base_levels),
        swapped_level=_median(problem.full_levels),
        mean=mean,
        median=_median(effects),
        agreeing=int((torch.sign(effects) == np.sign(mean)).sum()),
        interval=mean_interval(effects.double().numpy(), weight.double().numpy(), labels=clusters),
        reported=_reported(problem),
    )


def _median(values: Tensor) -> float:
    """Of an even count the mean of the middle two, where torch takes the lower one."""
    return float(np.median(values.double().cpu().numpy()))


def _of_set(problem: SetProblem) -> FullSwap:
    base = problem.scorer.base
    return FullSwap(
        metric=problem.metric.name,
        pairs=problem.size,
        base_level=problem.metric.soft_level(base, base, problem.answers).item(),
        swapped_level=problem.metric.soft_level(problem.full_scores, base, problem.answers).item(),
        mean=problem.full_swap.item(),
        median=None,
        agreeing=None,
        interval=None,
        reported=_reported(problem),
    )


def _reported(problem: PairProblem | SetProblem) -> Interval | None:
    if not problem.metric.surrogate:
        return None
    base = problem.scorer.base
    before = problem.metric.reported(base, base, problem.answers).item()
    draws = problem.draws if isinstance(problem, PairProblem) else ()
    after = [part.metric.reported(part.full_scores, base, part.answers).item() for part in (problem, *draws)]
    return before, sum(after) / len(after)


def preferred(swap: FullSwap, mode: str) -> Direction:
    """The direction that a search takes unless told: that of the full swap; faithfulness is always maximised."""
    return "maximise" if mode == "keep" or swap.mean >= 0 else "minimise"
