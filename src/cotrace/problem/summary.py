"""The question in words: what swapping everything does, in which direction, and whether the data show it at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cotrace.errors import InputError
from cotrace.metrics import AnyMetric, SetMetric
from cotrace.problem.pairs import PairProblem
from cotrace.problem.protocol import Direction
from cotrace.problem.whole import SetProblem
from cotrace.statistics import Interval, Units, covers, interval_text, mean_interval, set_interval

DIRECTIONS = "direction='maximise' or direction='minimise'"


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
    """Bootstrap interval of it; None where there are too few pairs."""
    reported: Interval | None = None
    """(base run, full swap) of the metric as people read it, where searches see a surrogate."""
    rounding: float = 0.0
    """What rounding alone can make of the mean."""

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
        """What is said before anything else where these pairs show no effect; else empty."""
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
    """Of an even count the mean of the middle two, where torch takes the lower one."""
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
    """No direction was given, and the full swap shows none; nothing is guessed from rounding or chance."""

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
