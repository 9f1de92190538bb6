"""Faithfulness is a ratio: its intervals against its definition, a bootstrap by hand, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import cotrace as ct
from cotrace import shipped
from cotrace.evaluation import cross_fit, evaluate, with_intervals
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.weighted import WeightedSum
from cotrace.search import Greedy, TopK
from cotrace.statistics import Units, mean_interval, median_interval, widened
from tests.problems import ClosedForm

N = 6


def shares(size: int, seed: int, spread: float = 1.0) -> Tensor:
    """[component, example]: what each component restores of each pair's effect, in units of the mean full effect."""
    draw = torch.Generator().manual_seed(seed)
    own = 0.5 + spread * torch.rand(size, generator=draw, dtype=torch.float64)
    parts = own + 0.2 * torch.randn(N, size, generator=draw, dtype=torch.float64)
    return parts / parts.sum(0).mean()


def keeping(size: int = 40, unseen: int = 40, spread: float = 1.0) -> ClosedForm:
    """Faithfulness: the parts kept of every pair, with held-out pairs of their own."""
    own, others = shares(size, 0, spread), shares(unseen, 1, spread)
    heldout = ClosedForm(lambda s: s @ others, N, unseen, mode="keep")
    return ClosedForm(lambda s: s @ own, N, size, mode="keep", heldout=heldout)


def by_hand(top: np.ndarray, bottom: np.ndarray, level: float, seed: int = 5) -> tuple[float, float]:
    """BCa of sum(top) / sum(bottom), as Efron (1987) writes it."""
    n, ratio = len(top), top.sum() / bottom.sum()
    drawn = np.random.default_rng(seed).integers(0, n, (20_000, n))
    again = top[drawn].sum(1) / bottom[drawn].sum(1)
    z0 = stats.norm.ppf((again < ratio).mean())
    left = np.array([np.delete(top, i).sum() / np.delete(bottom, i).sum() for i in range(n)])
    pull = left.mean() - left
    a = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    tail = stats.norm.ppf((1 + level) / 2)
    low, high = (stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in (-tail, tail))
    return float(np.quantile(again, low)), float(np.quantile(again, high))


def test_the_interval_of_a_ratio_is_that_of_a_bootstrap_by_hand() -> None:
    effects = shares(40, 3).numpy()
    top, bottom = effects[:2].sum(0), effects.sum(0)
    found = mean_interval(top, Units.made(40), bottom, resamples=20_000)
    wanted = by_hand(top, bottom, widened(40))
    assert found == pytest.approx(wanted, abs=0.03 * (wanted[1] - wanted[0]))
    plain = mean_interval(top, Units.made(40), resamples=20_000)
    assert plain is not None
    assert plain[1] - plain[0] > 1.3 * (wanted[1] - wanted[0])


def test_groups_and_weights_are_those_of_numerator_and_denominator() -> None:
    """Pairs doubled in weight, or doubled in a group of their own, give the same interval of the ratio."""
    effects = shares(30, 4).numpy()
    top, bottom = effects[:3].sum(0), effects.sum(0)
    weighed = mean_interval(top, Units.made(30, np.full(30, 2.0)), bottom)
    doubled = Units.made(60, labels=[str(i // 2) for i in range(60)])
    assert weighed == pytest.approx(mean_interval(top, Units.made(30), bottom))
    assert mean_interval(np.repeat(top, 2), doubled, np.repeat(bottom, 2)) == pytest.approx(weighed, abs=0.02)


def test_the_interval_of_the_ratio_covers_it() -> None:
    """2 x 40 pairs, 300 times: the ratio's own interval holds 2 / 6; with a constant denominator it is far too wide."""
    truth, units, inside, wide = 2 / N, Units.made(40), 0, []
    for seed in range(300):
        effects = shares(40, 100 + seed).numpy()
        top, bottom = effects[:2].sum(0), effects.sum(0)
        low, high = mean_interval(top, units, bottom, resamples=500) or (1.0, 0.0)
        inside += low <= truth <= high
        plain = mean_interval(top, units, resamples=500) if seed < 20 else None
        wide += [] if plain is None else [(plain[1] - plain[0]) / (high - low)]
    assert 0.92 <= inside / 300 <= 0.99  # 0.95 +- 2.4 standard errors
    assert np.mean(wide) > 1.3


def test_keeping_everything_is_1_and_its_interval_is_1_to_1() -> None:
    problem = keeping()
    found = evaluate(problem, Greedy()(problem), k=N)
    assert found.full_interval == pytest.approx((1, 1), abs=1e-9)
    assert found.chosen.interval == pytest.approx((1, 1), abs=1e-6)
    smaller = evaluate(problem, Greedy()(problem), k=3)
    top = problem.heldout.effects(1 - mask(problem, smaller.components)).numpy()
    wanted = by_hand(top, shares(40, 1).sum(0).numpy(), widened(40))
    assert smaller.chosen.interval == pytest.approx(wanted, abs=0.1 * (wanted[1] - wanted[0]))


def mask(problem: ClosedForm, names: tuple[str, ...]) -> Tensor:
    return torch.tensor([float(name in names) for name in problem.space.names])


def test_medians_gains_and_folds_are_ratios_too() -> None:
    """Shares that are the same for every pair leave nothing to be unsure of, however the pairs' effects differ."""
    own = 0.5 + torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = own / own.mean()
    weights = torch.arange(1.0, N + 1, dtype=torch.float64) / 21
    problem = ClosedForm(lambda s: (s @ weights)[:, None] * own, N, 30, mode="keep")
    judge = Evaluator(problem)
    sets = np.zeros((2, N), bool)
    sets[0, 4:], sets[1, 5:] = True, True
    assert judge.interval(sets[0]) == pytest.approx((11 / 21, 11 / 21), abs=1e-6)
    assert judge.gain_interval(sets[0], sets[1]) == pytest.approx((5 / 21, 5 / 21), abs=1e-6)
    row = cross_fit(problem, TopK(max_size=1), count=5).rows[0]
    assert row.interval == pytest.approx((6 / 21, 6 / 21), abs=1e-6)
    effects, units = problem.effects(1 - torch.from_numpy(sets[0]).float()).numpy(), Units.made(30)
    low, high = median_interval(effects, units, own.numpy()) or (0.0, 0.0)
    drawn = np.random.default_rng(7).integers(0, 30, (4_000, 30))
    again = np.median(effects[drawn], 1) / own.numpy()[drawn].mean(1)
    assert (low, high) == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=0.01)


def test_no_ratio_where_the_denominator_may_be_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    own = torch.randn(N, 40, generator=draw, dtype=torch.float64)
    own = own / own.sum(0).mean()
    problem = ClosedForm(lambda s: s @ own, N, 40, mode="keep")
    found = evaluate(problem, Greedy()(problem), k=2)
    assert found.chosen.interval is None
    assert found.median_interval is None
    assert any("which faithfulness is divided by, covers 0" in note for note in found.notes)


def test_a_language_model_that_keeps_everything() -> None:
    problem = ct.LanguageProblem(ct.load_model(shipped.MODEL), ct.tasks.demo_agreement(), mode="keep")
    assert problem.heldout is not None
    judge, n = Evaluator(problem.heldout), len(problem.space)
    assert judge.interval(np.ones(n, bool)) == pytest.approx((1, 1), abs=1e-5)
    frontier = with_intervals(problem, TopK(max_size=12)(problem))
    top = problem.heldout.effects(frontier.at(12)).double().numpy()
    bottom = problem.heldout.effects(torch.zeros(n)).double().numpy()
    assert bottom.mean() == pytest.approx(1, abs=1e-5)
    wanted = by_hand(top, bottom, widened(len(top)))
    assert frontier.at(12).interval == pytest.approx(wanted, abs=0.15 * (wanted[1] - wanted[0]))
    assert frontier.at(12).effect_heldout == pytest.approx(top.mean(), rel=1e-5)


def test_pairs_without_weight_leave_the_interval_as_it_is() -> None:
    """Under warnings as errors: a resample of nothing but such pairs would be 0 / 0."""
    effects = np.random.default_rng(0).normal(1, 1, 14)
    weight = np.r_[np.ones(12), np.zeros(2)]
    with_none = mean_interval(effects, Units.made(14, weight))
    assert with_none == pytest.approx(mean_interval(effects[:12], Units.made(12)))
    assert mean_interval(effects, Units.made(14, np.r_[np.ones(9), np.zeros(5)])) is None


def test_a_weighted_sum_of_faithfulness_is_a_sum_of_ratios() -> None:
    """Two problems of one pool of pairs, whose shares differ: each has its own denominator."""
    one, two = shares(40, 8), shares(40, 9, spread=3.0)
    parts = [
        ClosedForm(lambda s, own=own: s @ own, N, 40, mode="keep", task=str(i)) for i, own in enumerate((one, two))
    ]
    together = WeightedSum([(0.4, parts[0]), (1.6, parts[1])])
    judge, chosen = Evaluator(together), np.zeros(N, bool)
    chosen[:2] = True
    assert judge.interval(np.ones(N, bool)) == pytest.approx((2, 2), abs=1e-6)
    tops, bottoms = [e[:2].sum(0).numpy() for e in (one, two)], [e.sum(0).numpy() for e in (one, two)]
    drawn = np.random.default_rng(3).integers(0, 80, (20_000, 80))
    again = sum(
        w * _sum(top, drawn, i) / _sum(bottom, drawn, i)
        for i, (w, top, bottom) in enumerate(zip((0.4, 1.6), tops, bottoms, strict=True))
    )
    wanted = np.quantile(again, [(1 - widened(80)) / 2, (1 + widened(80)) / 2])
    assert judge.interval(chosen) == pytest.approx(wanted, abs=0.05 * np.ptp(wanted))


def _sum(values: np.ndarray, drawn: np.ndarray, part: int) -> np.ndarray:
    """Sum over what was drawn of one of two parts of 40."""
    whole = np.zeros(80)
    whole[40 * part : 40 * part + 40] = values
    return np.asarray(whole[drawn].sum(1))
