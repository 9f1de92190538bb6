"""Parts of a weighted sum: whatever is drawn, each problem counts by its own weight; against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cotrace.errors import InputError
from cotrace.evaluation import cross_fit
from cotrace.evaluation._folds import folds, resampled
from cotrace.evaluation.stability import from_archive, means, part_of, search_again
from cotrace.problem.subproblem import Subproblem
from cotrace.problem.weighted import WeightedSum
from cotrace.results.effects import EffectTable
from cotrace.search import Greedy
from cotrace.statistics import Units
from tests.problems import ClosedForm

N, SIZES, SHARES, SIGNS = 6, (5, 20), (0.5, 2.0), (1.0, 1.0)
"""A closed form that is to be minimised has the effects of its formula with the other sign, so all signs are +."""


def formula(number: int) -> tuple[Any, Tensor]:
    """Effects [set, example] of one problem, and its table [example, n] of single effects."""
    draw = torch.Generator().manual_seed(number)
    table = (
        torch.rand(SIZES[number], N, generator=draw, dtype=torch.float64) * torch.arange(1, SIZES[number] + 1)[:, None]
    )
    return (lambda s: torch.tanh(s.double() @ table.T / 10)), table


def problem() -> WeightedSum:
    parts = [ClosedForm(formula(i)[0], N, size=SIZES[i], task=f"task {i}") for i in (0, 1)]
    parts[1].direction = "minimise"
    return WeightedSum(list(zip(SHARES, parts, strict=True)))


def by_hand(masks: Tensor, examples: list[int]) -> Tensor:
    """Sum of weight x direction x mean over the drawn examples of each problem."""
    total = torch.zeros(len(masks), dtype=torch.float64)
    for i, start in enumerate((0, SIZES[0])):
        own = [e - start for e in examples if start <= e < start + SIZES[i]]
        total += SHARES[i] * SIGNS[i] * formula(i)[0](masks)[:, own].mean(-1)
    return total


DRAWN = ([0, 1, 2, 3, 7, 8], [4, *range(5, 25)], [2, 3, 5, 24])


@pytest.mark.parametrize("examples", DRAWN, ids=len)
def test_a_part_has_the_value_and_the_gradient_of_the_whole_sums_weights(examples: list[int]) -> None:
    part, masks = Subproblem(problem(), examples), torch.rand(3, N, generator=torch.Generator().manual_seed(9))
    assert torch.allclose(part.value(masks), by_hand(masks, examples), atol=1e-12)
    z = masks[0].double()
    slope = part.gradient(z)
    for i in range(N):
        step = torch.zeros(N, dtype=torch.float64).index_fill(0, torch.tensor([i]), 1e-5)
        rise = (by_hand((z + step)[None], examples) - by_hand((z - step)[None], examples)) / 2e-5
        assert slope[i].item() == pytest.approx(rise.item(), rel=1e-5)
    halves = [list(range(0, len(examples), 2)), list(range(1, len(examples), 2))]
    if len(halves[0]) == len(halves[1]):
        mean = torch.stack([part.gradient(z, examples=half) for half in halves]).mean(0)
        assert torch.allclose(mean, slope, atol=1e-12)


def test_parts_folds_and_resamples_are_drawn_within_each_problem() -> None:
    units = Units.of(problem())
    for seed in range(20):
        drawn = part_of(units, seed)
        assert (sum(e < 5 for e in drawn), sum(e >= 5 for e in drawn)) == (round(0.632 * 5), round(0.632 * 20))
    counts = resampled(units, 200, 0)
    assert np.all(counts[:, :5].sum(1) == 5)
    assert np.all(counts[:, 5:].sum(1) == 20)
    for searched, unseen in folds(problem(), 5, 0):
        assert sorted(searched + unseen) == list(range(25))
        assert (sum(e < 5 for e in unseen), sum(e >= 5 for e in unseen)) == (1, 4)


def test_pairs_that_two_problems_share_stay_together() -> None:
    one = problem()
    for each in one.problems:
        each.task, each.clusters = "same", [str(i // 2) for i in range(each.size)]  # type: ignore[attr-defined]
    units = Units.of(one)
    assert units.count == 10
    for searched, unseen in folds(one, 3, 0):
        for pair in range(3):
            both = [pair * 2, 5 + pair * 2]
            assert len({e in searched for e in both}) == 1
        assert any(e < 5 for e in searched)
        assert unseen


def test_reselection_weighs_each_problem_as_the_sum_does() -> None:
    one, units = problem(), Units.of(problem())
    sets = np.eye(N, dtype=bool)
    effects = one.effects(torch.from_numpy(sets).float()).numpy()
    drawn = resampled(units, 50, 3)
    found = means(effects, units, drawn)
    for row, count in zip(found, drawn, strict=True):
        again = [e for e in range(25) for _ in range(int(count[units.unit[e]]))]
        assert row == pytest.approx(by_hand(torch.from_numpy(sets), again).numpy(), abs=1e-12)
    names = one.space.names
    said = from_archive(EffectTable.of(sets, effects), names, units, 1.0, 1, resamples=50, seed=3)
    assert said.inclusion == {
        names[i]: pytest.approx(share) for i in range(N) if (share := float((found.argmax(1) == i).mean()))
    }


def test_searching_again_and_cross_fitting_choose_by_the_sums_weights() -> None:
    one, k, runs = problem(), 1, 6
    units = Units.of(one)
    wanted = [int(by_hand(torch.eye(N), part_of(units, run)).argmax()) for run in range(runs)]
    found = search_again(one, Greedy(max_size=1), k, runs)
    assert found.inclusion == {
        one.space.names[i]: pytest.approx(wanted.count(i) / runs) for i in range(N) if i in wanted
    }
    fitted = cross_fit(one, Greedy(max_size=1), count=5)
    total = 0.0
    effects = one.effects(torch.eye(N))
    for searched, unseen in folds(one, 5, 0):
        best = int(by_hand(torch.eye(N), searched).argmax())
        total += float(effects[best, unseen].sum())
    assert fitted.rows[0].effect == pytest.approx(total / 25)


def test_a_problem_with_one_pair_cannot_be_cross_fitted() -> None:
    lone = ClosedForm(lambda s: s[:, :1].double(), N, size=1, task="lone")
    both = WeightedSum([(1.0, lone), (1.0, problem().problems[1])])
    with pytest.raises(InputError, match="at least 2 groups of pairs of each of its problems"):
        cross_fit(both, Greedy(max_size=1), count=3)
