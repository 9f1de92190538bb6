"""Intervals against scipy's BCa, closed forms, a jackknife by brute force, and simulation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from cotrace.errors import InputError
from cotrace.statistics import (
    RESAMPLES,
    Interval,
    Units,
    counts_of,
    covers,
    interval_of,
    interval_text,
    joint_intervals,
    mean_interval,
    mean_intervals,
    median_interval,
    missing,
    need_units,
    set_interval,
    share_interval,
    widened,
)
from cotrace.statistics import _intervals as intervals
from cotrace.statistics import _resampling as resampling

MANY = 20_000


def scipy_s(data, statistic, level: float, **options) -> Interval:  # type: ignore[no-untyped-def]
    found = stats.bootstrap(
        data, statistic, n_resamples=MANY, confidence_level=level, method="BCa", rng=np.random.default_rng(9), **options
    ).confidence_interval
    return float(found.low), float(found.high)


def close(found: Interval | None, wanted: Interval, share: float = 0.03) -> None:
    """Equal but for what so many resamples leave open."""
    assert found == pytest.approx(wanted, abs=share * (wanted[1] - wanted[0]))


def weights_and_groups() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.exponential(size=90), draw.uniform(0.5, 3, 90), np.arange(90) % 30


def test_a_weighted_mean_of_groups_is_scipy_s() -> None:
    values, weight, group = weights_and_groups()
    made = Units.made(90, weight, [f"g{g:02d}" for g in group])
    sums, totals = np.bincount(group, values * weight), np.bincount(group, weight)
    wanted = scipy_s((sums, totals), lambda s, w, axis: s.sum(axis) / w.sum(axis), widened(30), paired=True)
    close(mean_interval(values, made, resamples=MANY), wanted)


def test_several_rows_at_once_are_each_by_itself() -> None:
    rows = np.random.default_rng(1).normal(size=(5, 40))
    made = Units.made(40)
    assert mean_intervals(rows, made) == [mean_interval(row, made) for row in rows]
    assert mean_intervals(rows[:0], made) == []


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many resamples or sets are held at a time is not seen in an interval."""
    rows, made = np.random.default_rng(1).normal(size=(5, 40)), Units.made(40, strata=[i % 3 for i in range(40)])
    before = mean_intervals(rows, made), median_interval(rows[0], made)
    monkeypatch.setattr(resampling, "BLOCK", 400)
    monkeypatch.setattr(intervals, "TABLE", 200)
    assert np.array(mean_intervals(rows, made)) == pytest.approx(np.array(before[0]))
    assert median_interval(rows[0], made) == pytest.approx(before[1])


def test_two_strata_are_scipy_s_two_samples() -> None:
    """The difference of two groups' means, each drawn by itself: BCa of several samples."""
    draw = np.random.default_rng(2)
    one, two = draw.exponential(size=25), draw.exponential(3, size=15)
    values, group = np.r_[one, two], np.r_[np.zeros(25, int), np.ones(15, int)]
    made = Units.made(40, strata=group.tolist())

    def gap(counts: np.ndarray) -> np.ndarray:
        means = [(counts * values)[:, group == g].sum(1) / counts[:, group == g].sum(1) for g in (0, 1)]
        return means[1] - means[0]

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return b.mean(axis) - a.mean(axis)

    close(set_interval(gap, made), scipy_s((one, two), difference, widened(40, 2)), 0.06)


def test_a_median_is_scipy_s() -> None:
    values = np.random.default_rng(3).exponential(size=60)
    wanted = scipy_s((values,), np.median, widened(60))
    close(median_interval(values, Units.made(60), resamples=MANY), wanted, 0.06)
    twice = Units.made(120, labels=[str(i // 2) for i in range(120)])
    close(median_interval(np.repeat(values, 2), twice, resamples=MANY), wanted, 0.08)


def test_the_closed_form_of_the_jackknife_is_leaving_out_by_hand() -> None:
    """Of a weighted sum of two ratios over groups: the same interval as from a function that is computed again."""
    values, weight, group = weights_and_groups()
    part, over = np.arange(90) // 45, values + np.random.default_rng(5).uniform(0.5, 1, 90)
    made = Units(weight, group, part=part)

    def again(counts: np.ndarray) -> np.ndarray:
        found = np.zeros(len(counts))
        for p in (0, 1):
            own = counts * weight * (part == p)
            whole = weight[part == p]
            scale = (over[part == p] * whole).sum() / whole.sum()
            found += whole.sum() / weight.sum() * (own @ values) / (own @ over) * scale
        return found

    assert mean_interval(values, made, over) == pytest.approx(set_interval(again, made), rel=1e-9)


def test_a_share_of_the_whole_is_resampled_with_the_whole() -> None:
    draw = np.random.default_rng(0)
    full = draw.uniform(0.5, 2, 40)
    effects, own = 0.5 * full + draw.normal(0, 0.05, 40), (np.arange(40) < 20).astype(float)
    made = Units.made(40)
    found = share_interval(effects, own, full, made)

    def share(a: np.ndarray, b: np.ndarray, c: np.ndarray, axis: int) -> np.ndarray:
        return a.sum(axis) / b.sum(axis) / c.mean(axis)

    close(found, scipy_s((effects * own, own, full), share, widened(40), paired=True), 0.08)
    assert share_interval(full, np.ones(40), full, made) == pytest.approx((1, 1))
    assert share_interval(effects, (np.arange(40) < 9).astype(float), full, made) is None


def test_many_normal_effects_have_student_s_interval() -> None:
    effects = np.random.default_rng(1).normal(2.0, 3.0, 400)
    wanted = stats.t.interval(0.95, 399, effects.mean(), stats.sem(effects))
    assert mean_interval(effects, Units.made(400), resamples=MANY) == pytest.approx(wanted, abs=0.02)


def test_widening_gives_students_width_at_small_n() -> None:
    quantile = stats.norm.ppf((1 + widened(10)) / 2)
    assert quantile * np.sqrt(9 / 10) == pytest.approx(stats.t.ppf(0.975, 9))
    quantile = stats.norm.ppf((1 + widened(10, 3, 0.9)) / 2)
    assert quantile * np.sqrt(7 / 10) == pytest.approx(stats.t.ppf(0.95, 7))


def test_groups_are_resampled_whole() -> None:
    """Four copies of each value say no more than one: the interval is that of the 30 values, not of 120."""
    values = np.random.default_rng(2).normal(size=30)
    single = mean_interval(values, Units.made(30), resamples=MANY)
    assert single is not None
    copied = Units.made(120, labels=[str(i // 4) for i in range(120)])
    close(mean_interval(np.repeat(values, 4), copied, resamples=MANY), single)
    apart = mean_interval(np.repeat(values, 4), Units.made(120))
    assert apart is not None
    assert apart[1] - apart[0] < 0.6 * (single[1] - single[0])


def test_weighted_mean_of_unequal_groups() -> None:
    made = Units.made(4, np.array([1.0, 3.0, 2.0, 2.0]), ["a", "a", "b", "c"])
    effects = np.array([1.0, 2.0, 3.0, 4.0])
    assert made.mean(effects) == pytest.approx((1 + 6 + 6 + 8) / 8)
    assert made.sums(effects).tolist() == [7.0, 6.0, 8.0]
    assert made.sums(effects[None, None]).shape == (1, 1, 3)
    assert made.unit_means(effects).mean() == pytest.approx(made.mean(effects))
    assert made.words == "4 pairs in 3 groups"


def test_alike_effects_have_an_interval_of_no_width_and_few_have_none() -> None:
    assert mean_interval(np.full(20, 0.5), Units.made(20)) == (0.5, 0.5)
    few, effects = Units.made(9), np.arange(9.0)
    assert mean_interval(effects, few) is None
    assert median_interval(effects, few) is None
    assert set_interval(lambda counts: counts @ effects, few) is None
    with pytest.raises(InputError, match="at least 10 pairs, and these are 9"):
        need_units(few, "an interval")


def test_one_that_differs_from_all_others() -> None:
    """The most that 10 units can be skewed: finite, and the value lies inside."""
    effects = np.r_[np.zeros(9), 1.0]
    low, high = mean_interval(effects, Units.made(10)) or (1.0, 0.0)
    assert 0 <= low <= 0.1 <= high <= 1


def test_pairs_without_weight_change_no_interval() -> None:
    effects = np.random.default_rng(0).normal(size=12)
    weight = np.r_[np.ones(10), 0, 0]
    made, ten = Units.made(12, weight), Units.made(10)
    assert mean_interval(effects, made) == pytest.approx(mean_interval(effects[:10], ten))
    found = set_interval(lambda counts: counts @ (weight * effects), made)
    assert found == pytest.approx(set_interval(lambda counts: counts @ effects[:10], ten))
    assert mean_interval(effects, Units.made(12, np.r_[np.ones(9), np.zeros(3)])) is None


def test_every_resample_holds_as_many_of_each_stratum_and_groups_stay_whole() -> None:
    kinds = np.arange(60) % 12 // 3  # groups of 6: of kinds {0, 1} or {2, 3}
    made = Units.made(60, labels=[f"g{i // 6}" for i in range(60)], strata=kinds.tolist())
    counts = np.concatenate(list(counts_of(made)))[1 + 10 :]
    assert counts.shape == (RESAMPLES, 60)
    assert (counts.reshape(-1, 10, 6) == counts.reshape(-1, 10, 6)[..., :1]).all()
    for kind in range(4):
        assert (counts[:, kinds == kind].sum(1) == 15).all()
    assert len({row.tobytes() for row in counts}) > RESAMPLES / 2


def test_kinds_of_one_unit_are_drawn_together_and_a_miss_is_counted() -> None:
    """Two units of a kind of their own: a resample of them misses one of the two in half of the cases."""
    kinds = [0] * 18 + [1, 2]
    made = Units.made(20, strata=kinds)
    assert made.strata[-2:].tolist() == [made.strata[-1]] * 2 != [made.strata[0]] * 2
    assert len(set(Units.made(20, strata=[0] * 19 + [1]).strata)) == 1

    def least(counts: np.ndarray) -> np.ndarray:
        return np.where((counts[:, 18:] > 0).all(1), counts[:, 0], np.nan)

    values = np.concatenate([least(counts) for counts in counts_of(made)])
    assert missing(values, made) == pytest.approx(RESAMPLES / 2, rel=0.1)
    assert interval_of(values, made) is None
    values = counts = np.concatenate([c @ np.arange(20.0) for c in counts_of(made)])
    values[-60:] = np.nan
    assert interval_of(values, made) is not None
    values[-120:] = np.nan
    assert interval_of(counts, made) is None


def test_above_2000_units_groups_of_them_are_left_out() -> None:
    """Within strata, each about as large; the interval is that of leaving out each unit."""
    draw = np.random.default_rng(4)
    effects, kinds = draw.exponential(size=3_000), (np.arange(3_000) % 10 == 0).astype(int)
    made = Units.made(3_000, strata=kinds.tolist())
    group, strata = made.left_out
    assert len(strata) == 2_000
    assert set(np.bincount(group).tolist()) == {1, 2}
    assert (strata[group] == made.strata).all()
    one = set_interval(lambda counts: counts @ effects / counts.sum(1), made)
    assert one == pytest.approx(mean_interval(effects, made), abs=5e-3 * np.ptp(one))


def test_memory_grows_neither_with_units_squared_nor_with_units_times_resamples() -> None:
    effects, made = np.random.default_rng(0).normal(size=(2, 50_000)), Units.made(50_000)
    tracemalloc.start()
    mean_intervals(effects, made, resamples=60)
    median_interval(effects[0], made, resamples=60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # 50,000 x 2,000 doubles are 800 MB, 50,000 squared 20 GB


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """A gap between two groups of 20, 400 times: 95 % +- 3 standard errors."""
    made, held = Units.made(40, strata=[i // 20 for i in range(40)]), 0
    for seed in range(400):
        values = np.random.default_rng(seed).normal(size=40) + np.r_[np.zeros(20), np.ones(20)]

        def gap(counts: np.ndarray, values: np.ndarray = values) -> np.ndarray:
            return (counts[:, 20:] @ values[20:] - counts[:, :20] @ values[:20]) / 20

        held += covers(set_interval(gap, made), 1.0)
    assert 0.917 <= held / 400 <= 0.983


def test_the_text_of_an_interval() -> None:
    assert interval_text((0.1234, -2.0)) == "+0.123 .. -2"
    assert interval_text((0.5, 0.75), ".0%") == "50% .. 75%"
    assert interval_text(None) == ""
    assert covers((-1.0, 1.0))
    assert not covers((0.5, 1.0))
    assert not covers(None)


def test_joint_intervals_hold_all_at_once() -> None:
    """20 correlated means of 15 units: all are held in about 95 % of the trials; one by one in far fewer."""
    draw, trials, rows, count = np.random.default_rng(5), 150, 20, 15
    units, held = Units.made(count), {"joint": 0, "each": 0}
    for _ in range(trials):
        effects = draw.normal(size=(rows, count)) + draw.normal(size=count) / 2
        found = {
            "joint": joint_intervals(effects, units, resamples=400),
            "each": mean_intervals(effects, units, resamples=400),
        }
        for name, some in found.items():
            held[name] += all(covers(one) for one in some)
    assert held["joint"] / trials >= 0.91
    assert held["each"] / trials < 0.75


def test_joint_intervals_of_many_alike_are_those_of_one() -> None:
    """Copies of one row need no adjustment, and independent rows that of their number: Sidak, by Student's quantile."""
    draw = np.random.default_rng(2)
    one, count = draw.normal(size=40), 40
    units = Units.made(count)
    (alone,), copies = joint_intervals(one[None], units), joint_intervals(np.repeat(one[None], 30, 0), units)
    assert copies == [pytest.approx(alone)] * 30
    half = (alone[1] - alone[0]) / 2 if alone else 0.0
    assert sum(alone or ()) / 2 == pytest.approx(one.mean())
    assert half == pytest.approx(stats.t.ppf(0.975, count - 1) * one.std(ddof=1) / np.sqrt(count), rel=0.06)
    many = draw.normal(size=(30, count))
    wide = [(high - low) / 2 for low, high in filter(None, joint_intervals(many, units))]
    tail = (1 - 0.95 ** (1 / 30)) / 2
    expected = stats.t.isf(tail, count - 1) * many.std(1, ddof=1) / np.sqrt(count)
    assert wide == pytest.approx(expected.tolist(), rel=0.12)


def test_joint_intervals_follow_weights_groups_and_constant_rows() -> None:
    draw = np.random.default_rng(3)
    weight, labels = draw.uniform(0.5, 2, 24), [str(i // 2) for i in range(24)]
    units = Units.made(24, weight, labels)
    effects = np.stack([draw.normal(size=24), np.full(24, 0.25), np.zeros(24)])
    found = joint_intervals(effects, units)
    assert sum(found[0] or ()) / 2 == pytest.approx(float((effects[0] * weight).sum() / weight.sum()))
    assert (found[1], found[2]) == ((pytest.approx(0.25), pytest.approx(0.25)), (0.0, 0.0))
    assert joint_intervals(effects[:, :9], Units.made(9)) == [None] * 3
    assert joint_intervals(np.zeros((0, 24)), units) == []
