"""Pairs that count differently, some not at all: searches follow the weighted mean, as the value does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import cotrace as ct
from cotrace.objectives import transformation
from cotrace.search import PGBCT, Attribution, HardConcrete, Pursuit
from cotrace.search.pgbct import penalty_unit
from tests.tiny import model, task

WEIGHTS = (0.0, 0.0, 5.0, 1.0, 0.0, 2.0, 3.0, 0.5, 0.0, 1.0)


@pytest.fixture(scope="module")
def problem() -> ct.LanguageProblem:
    plain = task(len(WEIGHTS))
    pairs = tuple(replace(pair, weight=weight) for pair, weight in zip(plain.pairs, WEIGHTS, strict=True))
    return ct.LanguageProblem(model("gpt2"), replace(plain, pairs=pairs), holdout=0)


def slopes(problem: ct.LanguageProblem, z: Tensor) -> np.ndarray:
    """Gradient of each pair's own effect, by finite differences."""
    steps = 1e-5 * torch.eye(len(z), dtype=torch.float64)
    return ((problem.effects(z + steps) - problem.effects(z - steps)) / 2e-5).T.numpy()


def test_bootstrapped_attribution_ranks_by_the_weighted_mean_of_what_is_drawn(problem: ct.LanguageProblem) -> None:
    search = Attribution(at="integrated", points=1, bootstrap=40, folds=4, quantile=0.3)
    frontier = search(problem)
    own, weight = slopes(problem, torch.full((12,), 0.5, dtype=torch.float64)), np.array(WEIGHTS)
    order = np.random.default_rng([0, 0]).permutation(len(WEIGHTS))
    folds = [sorted(part.tolist()) for part in np.array_split(order, 4)]
    taken = (4 * np.random.default_rng([0, 1]).random((40, 4))).astype(int)
    drawn = (taken[:, :, None] == np.arange(4)).sum(1)
    means = []
    for counts in drawn:
        some = [i for fold, count in zip(folds, counts, strict=True) for i in fold * int(count)]
        if weight[some].sum() > 0:
            means.append((own[some] * weight[some, None]).sum(0) / weight[some].sum())
    sign = 1 if problem.direction == "maximise" else -1
    score = np.quantile(sign * np.stack(means), 0.3, axis=0)
    expected = [problem.space[i] for i in np.argsort(-score, kind="stable")]
    for k in (1, 3, 6, 9):
        assert set(frontier.at(k).members) == set(expected[:k])


def test_the_unit_of_penalties_is_of_the_weighted_mean(problem: ct.LanguageProblem) -> None:
    loss = transformation(problem.metric, problem.mode, problem.direction, None)
    full, weight = problem.effects(torch.ones(12)), torch.tensor(WEIGHTS).double()
    change = ((loss(full) - loss(torch.zeros_like(full))) * weight).sum() / weight.sum()
    assert penalty_unit(problem, loss, 3) == pytest.approx(abs(change.item()) / (12 * 3))


@pytest.mark.parametrize(
    "search",
    [
        PGBCT(batch_size=2, path=3, epochs=1),
        HardConcrete(batch_size=2, epochs=2),
        Attribution(bootstrap=5, folds=10),
        Pursuit(max_size=3, gradient_share=0.2),
    ],
    ids=lambda search: search.name,
)
def test_batches_of_pairs_without_weight_stop_no_search(search: ct.search.Search, problem: ct.LanguageProblem) -> None:
    try:
        frontier = search(problem)
    except ct.errors.DegenerateError:  # penalties that select nothing are no failure of the weights
        return
    for selection in frontier:
        assert selection.effect == pytest.approx(problem.value(selection).item(), abs=1e-6)
