"""Again: what searching again costs at most, said before it is done."""

from __future__ import annotations

from cotrace.evaluation.case import Case, Pairs, case_of, checks
from cotrace.evaluation.stability import limited, part_of
from cotrace.problem.masks import MASK_ELEMENTS
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier
from cotrace.search.driver import Search
from cotrace.statistics import Units

ALTERNATIVES = 3
"""Most searches for another set, each without the members of all sets before."""


def most_cost(search: Search, n: int) -> float:
    """Forward-equivalents of a search of n components and of the full swap behind it, at most."""
    bound: float = getattr(search, "most_cost", search.predicted_cost)(n)
    return bound + 1


def stability_cost(
    problem: Problem,
    frontier: Frontier,
    search: Search,
    runs: int,
    *,
    level: str = "quick",
    k: int | None = None,
    pairs: Pairs = "heldout",
    seed: int = 0,
) -> float:
    """Forward-equivalents of searching so often on parts of the pairs, and for other sets, at most."""
    case, units = case_of(problem, frontier, level=level, k=k, pairs=pairs), Units.of(problem)
    parts = sum(len(part_of(units, seed + run)) for run in range(runs)) / problem.size
    return parts * most_cost(search, len(problem.space)) + _alternatives_cost(case, search, runs)


def _alternatives_cost(case: Case, search: Search, runs: int) -> float:
    """Searches in ever smaller spaces (a set of at most k leaves with each), and judging what they find."""
    k, n = case.k, len(case.problem.space)
    count = min(runs, ALTERNATIVES)
    smaller = limited(search, k)
    searches = most_cost(smaller, n - k) if n - k >= k else 0.0
    if count > 1:  # how many are left after the first is not known
        lefts = range(max(n - count * k, k), n - k)
        searches += (count - 1) * max((most_cost(smaller, left) for left in lefts), default=0.0)
    # The selection and each set are evaluated; a metric of the whole set is drawn again too; a ratio has a divisor.
    return searches + 2 * (count + 1) + 1 + checks(case)


def folds_cost(problem: Problem, search: Search, count: int) -> float:
    """Forward-equivalents of cross-fitting, at most: each fold searches all pairs but its own and judges on its own."""
    n = len(problem.space)
    whole = most_cost(search, n)
    sizes = min(getattr(search, "max_size", None) or n, n)
    twice = 1 + (sizes * max(n, problem.size) > MASK_ELEMENTS)  # then no effects are kept, and they are measured anew
    by_cost = whole if getattr(search, "cost_weights", None) else 0
    return (count - 1) * whole + twice * sizes + 2 + by_cost
