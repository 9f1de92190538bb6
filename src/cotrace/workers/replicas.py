"""``ct.distributed``: a problem whose batches are run by workers. Nothing else about it changes."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import TypeVar, cast

from cotrace.errors import InputError
from cotrace.problem.goals import Constrained
from cotrace.problem.language import LanguageProblem
from cotrace.problem.protocol import Problem
from cotrace.problem.scored import PairProblem
from cotrace.problem.scorer import Scorer
from cotrace.problem.set_metric import SetProblem
from cotrace.problem.weighted import WeightedSum
from cotrace.validation import checked
from cotrace.workers.cluster import MAX_RESTARTS
from cotrace.workers.shares import check_sendable
from cotrace.workers.workers import Workers

Part = TypeVar("Part", bound=PairProblem | SetProblem)


@checked("ct.distributed")
def distributed(
    problem: Problem,
    workers: int | Workers = 1,
    *,
    ray_address: str | None = None,
    gpus: float | int = 0,
    max_restarts: int = MAX_RESTARTS,
) -> Problem:
    """The same problem, its batches run by ``workers`` on Ray: the same bytes for any number of them of one kind.

    Each worker holds a replica of the model, and the donor values and prefixes of the batches that it runs. ``workers``
    is a number of them, or a ``ct.Workers`` that problems share; those of a number end with the problem. ``0`` gives
    the problem itself. Sums and constraints have each of their problems distributed. The other arguments are those of
    ``ct.Workers``. Raises InputError, WorkersError.

    Args:
        ray_address: ``HOST:PORT`` of a cluster, or ``auto``; None begins Ray on this machine.
        gpus: GPUs of each worker; 0.25 puts four on one, 2 spreads a model over two.
        max_restarts: Lost workers that are begun again, in all.
    """
    if workers == 0:
        return problem
    check_distributable(problem)
    if isinstance(workers, int):
        workers = Workers(workers, ray_address=ray_address, gpus=gpus, max_restarts=max_restarts)
    return _on(problem, workers)


def check_distributable(problem: Problem) -> None:
    """Raise InputError for a problem that no model runs."""
    if isinstance(problem, LanguageProblem):
        for own in problem.counted_parts.values():
            check_sendable(own.scorer)
    elif isinstance(problem, WeightedSum | Constrained):
        for part in problem.made_of if isinstance(problem, WeightedSum) else problem.made_of[:1]:
            check_distributable(part)
    else:
        raise InputError(
            f"ct.distributed: a {type(problem).__name__} has no batches to hand out; give a ct.LanguageProblem, or a "
            "sum or constraint of some"
        )


def _on(problem: Problem, workers: Workers) -> Problem:
    if isinstance(problem, WeightedSum):
        return WeightedSum([(w, _on(p, workers)) for w, p in zip(problem.shares, problem.problems, strict=True)])
    if isinstance(problem, Constrained):
        side = [each.on(_on(each.problem, workers)) for each in problem.side]
        return Constrained(_on(problem.problem, workers), side, bounds=problem.bounds)
    # A copy whose parts have scorers that are run there; what was computed already stays.
    return cast("LanguageProblem", problem).with_parts(partial(_part, workers=workers))


def _part(part: Part, workers: Workers) -> Part:
    found = copy(part)
    found.scorer = _scorer(part.scorer, workers)
    if isinstance(found, PairProblem):
        found.draws = [_part(draw, workers) for draw in found.draws]
    found.use_cost(copy(part.cost), part.unit)
    return found


def _scorer(scorer: Scorer, workers: Workers) -> Scorer:
    found = copy(scorer)
    found.executor = workers
    return found
