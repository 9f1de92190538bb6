"""Tests and their adjustments: against enumeration, scipy and definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cotrace.statistics import Units, above_zero, controls_needed, holm, max_t, p_values, sign_flip_p, smallest_p


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


def test_max_t_by_hand() -> None:
    observed = np.array([3.0, 0.0])
    drawn = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [0.0, 1.0]])
    together = np.vstack([observed, drawn])
    steps = (together - together.mean(0)) / together.std(0)
    largest = steps[1:].max(1)
    wanted = [(1 + sum(m >= s for m in largest)) / 5 for s in steps[0]]
    assert max_t(observed, drawn).tolist() == pytest.approx(wanted)
    assert p_values(observed, drawn).tolist() == pytest.approx([1 / 5, 5 / 5])


def test_resolution_of_p_values() -> None:
    assert smallest_p(19) == pytest.approx(0.05)
    assert [controls_needed(p) for p in (0.05, 0.01, 0.001)] == [19, 99, 999]


def test_sign_flips_of_several_tests_are_those_of_each_and_scipy_s() -> None:
    effects = np.random.default_rng(0).normal(0.3, 1, (3, 40))
    found = sign_flip_p(effects, Units.made(40), flips=20_000)
    for row, p in zip(effects, found, strict=True):
        theirs = stats.permutation_test(
            (row, np.zeros(40)),
            lambda own, other, axis: (own - other).mean(axis),
            permutation_type="samples",
            alternative="greater",
            vectorized=True,
            n_resamples=20_000,
            rng=np.random.default_rng(1),
        ).pvalue
        assert p == pytest.approx(theirs, abs=0.015)
        assert p == sign_flip_p(row, Units.made(40), flips=20_000)
    assert sign_flip_p(np.zeros(40), Units.made(40)) == 1


def test_units_are_flipped_whole_and_no_p_is_0() -> None:
    groups = Units.made(12, labels=[str(i // 4) for i in range(12)])
    assert sign_flip_p(np.ones(12), groups) == pytest.approx(1 / 8)  # 3 units: 8 ways, one as large
    assert sign_flip_p(np.ones(40), Units.made(40), flips=99) == pytest.approx(1 / 100)
