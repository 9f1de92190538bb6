"""Searching again costs no more than is said before, counted by the problems themselves."""

from __future__ import annotations

import pytest

from cotrace.evaluation import cross_fit, folds_cost, stability_cost
from cotrace.evaluation.evidence import evaluate
from cotrace.results import Frontier
from cotrace.search import Greedy, Pursuit, Search, TopK
from tests.evaluation.problems import Judged, judged
from tests.problems import pairwise

N = 16
SEARCHES = [
    Pursuit(max_size=4),
    Pursuit(sizes=(1, 3, 5)),
    Pursuit(max_size=4, cost_weights="balanced"),
    Greedy(max_size=3),
    TopK(),
]


def problem_of() -> Judged:
    return judged(lambda s: pairwise(N, 1.0, 0, size=1)(s)[:, 0], N, size=12, unseen=10)


def spent(problem: Judged) -> float:
    return problem.cost.forward_equivalents + problem.heldout.cost.forward_equivalents


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_stability(search: Search, stored: bool) -> None:
    problem = problem_of()
    frontier = search(problem)
    frontier = frontier if stored else Frontier.from_dict(frontier.to_dict())
    said = stability_cost(problem, frontier, search, 3, k=3, seed=5)
    before = spent(problem)
    alone = evaluate(problem, frontier, k=3, seed=5)
    between = spent(problem)
    found = evaluate(problem, frontier, k=3, seed=5, stability=3, search=search)
    both = spent(problem) - between
    assert found.forward_equivalents == pytest.approx(both)
    assert len(found.stability) == len(alone.stability) + 1
    assert len(found.alternatives) == len(alone.alternatives) + 3
    assert 0 < both - (between - before) <= said


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_folds(search: Search) -> None:
    problem = problem_of()
    found = cross_fit(problem, search, count=3)
    assert found.forward_equivalents == pytest.approx(spent(problem))
    assert found.forward_equivalents <= folds_cost(problem, search, 3)
