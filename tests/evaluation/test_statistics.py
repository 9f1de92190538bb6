"""Controls, Shapley values, folds and coverage against enumeration and simulation."""

from __future__ import annotations

from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
import torch

from benchmarks.evidence import coverage, null_p_values, uniform_p
from cotrace.components import Component, ComponentSpace, Site
from cotrace.evaluation import controls
from cotrace.evaluation._folds import folds
from cotrace.evaluation._minimality import shapley
from cotrace.evaluation.published import auroc
from cotrace.problem.evaluator import Evaluator
from tests.evaluation.problems import judged
from tests.problems import modular, pairwise


def heads(layers: int, width: int) -> ComponentSpace:
    return ComponentSpace(tuple(Component(Site.HEAD_OUTPUT, i, j) for i in range(layers) for j in range(width)))


def test_controls_have_the_selection_s_composition_and_are_nested() -> None:
    space, chosen = heads(4, 6), np.zeros((3, 24), bool)
    for row, members in zip(chosen, ([0, 7], [0, 1, 7, 13], [0, 1, 2, 7, 13, 14, 20]), strict=True):
        row[members] = True
    words, blocks = controls.composition(space, chosen, 2)
    assert words == "site and layer"
    drawn = np.concatenate(list(controls.chains(blocks, chosen, 50, seed=0)))
    per_layer = drawn.reshape(50, 3, 4, 6).sum(-1)
    assert (per_layer == chosen.reshape(3, 4, 6).sum(-1)).all()
    assert (drawn[:, 0] <= drawn[:, 1]).all()
    assert (drawn[:, 1] <= drawn[:, 2]).all()
    assert len({row.tobytes() for row in drawn[:, 2]}) > 40


def test_composition_falls_back_where_layers_leave_no_choice() -> None:
    space = ComponentSpace(tuple(Component(Site.MLP_OUTPUT, layer) for layer in range(12)))
    chosen = np.zeros((1, 12), bool)
    chosen[0, :5] = True
    words, blocks = controls.composition(space, chosen, 0)
    assert words == "site"
    assert controls.distinct(blocks, chosen[0]) == comb(12, 5)


def brute_shapley(value, count: int) -> list[float]:  # type: ignore[no-untyped-def]
    """The definition: the mean marginal over all orders."""
    found = np.zeros(count)
    orders = list(permutations(range(count)))
    for order in orders:
        for i, member in enumerate(order):
            found[member] += value(order[: i + 1]) - value(order[:i])
    return list(found / len(orders))


def test_shapley_exact_and_sampled() -> None:
    problem = judged(lambda s: pairwise(12, 2.0, 3, size=1)(s)[:, 0], 12, noise=0.0)
    judge = Evaluator(problem.heldout)
    members = [1, 3, 4, 7, 8, 10]

    def value(some) -> float:  # type: ignore[no-untyped-def]
        z = torch.zeros(12)
        z[[members[i] for i in some]] = 1
        return float(problem.heldout.value(z)) if len(some) else 0.0

    wanted = brute_shapley(value, 6)
    exact = shapley(judge, members, most=63)
    assert exact is not None
    assert exact.permutations is None
    assert list(exact.values.values()) == pytest.approx(wanted, abs=1e-9)
    fresh = Evaluator(problem.heldout)
    sampled = shapley(fresh, members, most=60)
    assert sampled is not None
    assert sampled.permutations
    assert fresh.spent <= 60
    for found, error, true in zip(sampled.values.values(), sampled.standard_errors.values(), wanted, strict=True):
        assert abs(found - true) <= 5 * error + 1e-9
    assert sum(sampled.values.values()) == pytest.approx(value(range(6)))


def test_shapley_of_ten_is_exact() -> None:
    """A sum of weights: each one's value is its weight, whatever the others do."""
    weights = [float(i - 4) for i in range(10)]
    judge = Evaluator(judged(modular(weights), 10, noise=0.0).heldout)
    found = shapley(judge, list(range(10)), most=1023)
    assert found is not None
    assert judge.spent == 1023
    assert list(found.values.values()) == pytest.approx(weights)


def test_auroc_counts_pairs() -> None:
    positive, negative = [5, 3, 3], [4, 3, 1, 0]
    pairs = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_folds_keep_groups_whole_and_cover_every_pair_once() -> None:
    problem = judged(modular([1.0] * 4), 4, size=40, groups=9)
    parts = folds(problem, 3, seed=0)
    assert sorted(i for _, unseen in parts for i in unseen) == list(range(40))
    for searched, unseen in parts:
        assert problem.clusters is not None
        assert not {problem.clusters[i] for i in searched} & {problem.clusters[i] for i in unseen}
    for (_, a), (_, b) in combinations(parts, 2):
        assert abs(len(a) - len(b)) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log_odds, normal", "log_odds, logistic"])
def test_intervals_cover_the_truth(name: str) -> None:
    """Measured over 1,000 problems: see docs/evidence.md."""
    assert 0.93 <= coverage(name, 100, 1_000) <= 0.97


@pytest.mark.slow
def test_p_values_are_uniform_under_the_null() -> None:
    single, smallest = null_p_values(1_000, 99)
    assert uniform_p(single, 99) > 0.01
    assert (single <= 0.05).mean() < 0.07
    assert (smallest <= 0.05).mean() < 0.07
