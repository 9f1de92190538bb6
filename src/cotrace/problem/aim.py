"""What is aimed at: maximise, minimise, or come near a target value; and the problem that fits the metric."""

from __future__ import annotations

from collections.abc import Sequence

from cotrace.errors import InputError, unknown
from cotrace.metrics import AnyMetric, Metric, SetMetric, towards
from cotrace.problem.pairs import PairProblem
from cotrace.problem.protocol import Direction, Mode
from cotrace.problem.scorer import Scorer
from cotrace.problem.whole import SetProblem

TARGET = "target="


def aim(metric: AnyMetric, direction: str | None, mode: Mode) -> tuple[AnyMetric, Direction | None]:
    """The metric and direction that a search sees; ``target=0.5`` makes them nearness to 0.5, to be maximised.

    Raises InputError where the target is not a number or not one that the metric can take; UnknownName.
    """
    if direction is None:
        return metric, None
    if direction.startswith(TARGET):
        if mode == "keep":
            raise InputError("a target value is of the metric itself, and mode='keep' measures faithfulness: use swap")
        return towards(metric, _number(direction)), "maximise"
    directions: dict[str, Direction] = {"maximise": "maximise", "minimise": "minimise"}
    if direction in directions:
        return metric, directions[direction]
    raise unknown("direction", direction, ("maximise", "minimise", "target=NUMBER"))


def _number(direction: str) -> float:
    try:
        return float(direction.removeprefix(TARGET))
    except ValueError:
        raise InputError(f"direction {direction!r}: write the target as a number, as in target=0.5") from None


def target_of(metric: AnyMetric) -> float | None:
    """The level that a metric is to come near; None where it is to rise or fall."""
    return metric.target if isinstance(metric, SetMetric) else None


def part_of(scorers: Sequence[Scorer], metric: AnyMetric, mode: Mode) -> PairProblem | SetProblem:
    """The problem over a list of pairs that fits the metric; one scorer for each draw of the donors."""
    if isinstance(metric, Metric):
        return PairProblem(scorers[0], metric, mode, scorers[1:])
    if len(scorers) > 1:
        raise InputError(f"{metric.name} has no effect of each pair to average over draws of noise: use draws=1")
    return SetProblem(scorers[0], metric, mode)
