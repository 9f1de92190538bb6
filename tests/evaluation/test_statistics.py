"""Intervals, tests, controls and areas against formulas, simulation and enumeration."""

from __future__ import annotations

from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.evidence import coverage, null_p_values, uniform_p
from cotrace.components import Component, ComponentSpace, Site
from cotrace.errors import InputError
from cotrace.evaluation import controls
from cotrace.evaluation.bootstrap import (
    above_zero,
    holm,
    mean_interval,
    median_interval,
    need_units,
    sign_flip_p,
    widened,
)
from cotrace.evaluation.foreign import auroc
from cotrace.evaluation.interactions import shapley
from cotrace.evaluation.judge import Judge
from cotrace.evaluation.redraw import DRAWS, counts_of, interval_of
from cotrace.evaluation.units import Units
from cotrace.evaluation.views import folds
from tests.evaluation.problems import judged
from tests.problems import modular, pairwise


def test_interval_of_many_normal_effects_is_students() -> None:
    effects = np.random.default_rng(1).normal(2.0, 3.0, 400)
    low, high = mean_interval(effects, Units.made(400), resamples=20_000) or (0.0, 0.0)
    wanted = stats.t.interval(0.95, 399, effects.mean(), stats.sem(effects))
    assert (low, high) == pytest.approx(wanted, abs=0.02)


def test_widening_gives_students_width_at_small_n() -> None:
    quantile = stats.norm.ppf((1 + widened(10)) / 2)
    assert quantile * np.sqrt(9 / 10) == pytest.approx(stats.t.ppf(0.975, 9))


def test_groups_are_resampled_whole() -> None:
    """Four copies of each value say no more than one: the interval is that of the 30 values, not of 120."""
    values = np.random.default_rng(2).normal(size=30)
    single = mean_interval(values, Units.made(30))
    copied = Units.made(120, labels=[str(i // 4) for i in range(120)])
    assert mean_interval(np.repeat(values, 4), copied) == pytest.approx(single, abs=0.03)
    apart = mean_interval(np.repeat(values, 4), Units.made(120))
    assert apart is not None
    assert single is not None
    assert apart[1] - apart[0] < 0.6 * (single[1] - single[0])


def test_weighted_mean_of_unequal_groups() -> None:
    units = Units.made(4, np.array([1.0, 3.0, 2.0, 2.0]), ["a", "a", "b", "c"])
    effects = np.array([1.0, 2.0, 3.0, 4.0])
    assert units.mean(effects) == pytest.approx((1 + 6 + 6 + 8) / 8)
    assert units.sums(effects).tolist() == [7.0, 6.0, 8.0]
    assert units.unit_means(effects).mean() == pytest.approx(units.mean(effects))
    assert units.words == "4 pairs in 3 groups"


def test_alike_effects_have_an_interval_of_no_width_and_few_have_none() -> None:
    assert mean_interval(np.full(20, 0.5), Units.made(20)) == (0.5, 0.5)
    assert mean_interval(np.arange(9.0), Units.made(9)) is None
    with pytest.raises(InputError, match="at least 10 pairs, and these are 9"):
        need_units(Units.made(9), "an interval")


def test_drawing_again_gives_scipy_s_interval_of_a_skewed_mean() -> None:
    """A mean is a number for the whole set too; there scipy's BCa is the other answer."""
    effects = np.random.default_rng(3).exponential(size=60)
    units = Units.made(60)
    counts = counts_of(units)
    low, high = interval_of((counts * effects).sum(1) / counts.sum(1), units)
    assert counts.shape == (1 + 60 + DRAWS, 60)
    assert (low, high) == pytest.approx(mean_interval(effects, units), abs=0.12 * np.ptp([low, high]))  # noise of z0
    percentile = np.quantile((counts * effects).sum(1) / counts.sum(1), [0.025, 0.975])
    assert high > percentile[1] + 0.02 * np.ptp(percentile)


def test_drawing_again_keeps_groups_whole_and_gives_up_where_values_are_missing() -> None:
    units = Units.made(40, labels=[f"g{i // 4}" for i in range(40)])
    counts = counts_of(units)
    assert (counts.reshape(-1, 10, 4) == counts.reshape(-1, 10, 4)[..., :1]).all()
    values = counts @ np.arange(40.0)
    assert interval_of(values, units) is not None
    values[-DRAWS // 10 :] = np.nan
    assert interval_of(values, units) is None
    assert interval_of(np.ones(1 + 9 + DRAWS), Units.made(9)) is None


def test_median_interval_holds_most_of_the_middle() -> None:
    low, high = median_interval(np.arange(101.0), Units.made(101), resamples=2_000) or (0.0, 0.0)
    ranks = stats.binom.interval(0.95, 101, 0.5)  # of the order statistics around the median
    assert (low, high) == pytest.approx(ranks, abs=2.5)


def test_sign_flips_are_exact_where_they_are_few() -> None:
    effects = np.array([1.0, 2.0, -0.5, 3.0, 0.25, 1.5])
    signs = np.array(np.meshgrid(*[[1, -1]] * 6)).reshape(6, -1).T
    wanted = np.mean((signs * effects).mean(1) >= effects.mean() - 1e-12)
    assert sign_flip_p(effects, Units.made(6)) == pytest.approx(wanted)


def test_holm_by_its_definition() -> None:
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_many_tests_can_still_be_passed() -> None:
    effects = np.random.default_rng(0).normal(0, 1, (150, 40))
    effects[7] += 3
    adjusted = above_zero(effects, Units.made(40))
    assert adjusted[7] < 0.05
    assert (np.delete(adjusted, 7) > 0.05).all()


def heads(layers: int, width: int) -> ComponentSpace:
    return ComponentSpace(tuple(Component(Site.HEAD_OUTPUT, i, j) for i in range(layers) for j in range(width)))


def test_controls_have_the_selection_s_composition_and_are_nested() -> None:
    space, chosen = heads(4, 6), np.zeros((3, 24), bool)
    for row, members in zip(chosen, ([0, 7], [0, 1, 7, 13], [0, 1, 2, 7, 13, 14, 20]), strict=True):
        row[members] = True
    words, blocks = controls.composition(space, chosen, 2)
    assert words == "site and layer"
    drawn = controls.chains(blocks, chosen, 50, seed=0)
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


def test_max_t_by_hand() -> None:
    observed = np.array([3.0, 0.0])
    drawn = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [0.0, 1.0]])
    together = np.vstack([observed, drawn])
    steps = (together - together.mean(0)) / together.std(0)
    largest = steps[1:].max(1)
    wanted = [(1 + sum(m >= s for m in largest)) / 5 for s in steps[0]]
    assert controls.max_t(observed, drawn).tolist() == pytest.approx(wanted)
    assert controls.p_values(observed, drawn).tolist() == pytest.approx([1 / 5, 5 / 5])


def test_resolution_of_p_values() -> None:
    assert controls.smallest_p(19) == pytest.approx(0.05)
    assert [controls.controls_needed(p) for p in (0.05, 0.01, 0.001)] == [19, 99, 999]


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
    judge = Judge(problem.heldout)
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
    fresh = Judge(problem.heldout)
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
    judge = Judge(judged(modular(weights), 10, noise=0.0).heldout)
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
