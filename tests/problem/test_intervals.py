"""Intervals, medians and subgroups of a problem: against plain numpy, and against the same pairs said once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.evaluation.measurement import measure
from tests.tiny import model, task

MASK = torch.tensor([1.0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0])


def copied(count: int, copies: int) -> tuple[ct.Task, ct.Task]:
    """Some pairs, and so many copies of each in a group of their own."""
    single = task(count)
    single = replace(single, pairs=tuple(replace(p, group="ab"[i % 2]) for i, p in enumerate(single.pairs)))
    many = [replace(p, id=f"{p.id}-{c}", split_group=p.id) for p in single.pairs for c in range(copies)]
    return single, replace(single, pairs=tuple(many))


def test_copies_in_one_group_tell_no_more() -> None:
    single, many = copied(10, 3)
    one, other = (ct.LanguageProblem(model("gpt2"), each, holdout=0, direction="maximise") for each in (single, many))
    assert other.full_swap.interval == pytest.approx(one.full_swap.interval, abs=1e-9)
    rows, others = (each.breakdown(MASK).rows[-1] for each in (one, other))
    assert others.interval == pytest.approx(rows.interval, abs=1e-9)
    figures = [measure(model("gpt2"), each).overall for each in (single, many)]
    assert figures[1].base_interval == pytest.approx(figures[0].base_interval, abs=1e-9)
    assert figures[1].flips_interval == pytest.approx(figures[0].flips_interval, abs=1e-9)


@pytest.mark.parametrize("count", [10, 11])
def test_medians_are_numpy_s(count: int) -> None:
    """Of an even count the mean of the middle two; the same as an evaluation's."""
    problem = ct.LanguageProblem(model("gpt2"), task(count), holdout=0, direction="maximise")
    full, base = torch.ones(12), torch.zeros(12)
    effects = problem.effects(full).numpy()
    levels = [problem.training.reported_levels(mask).numpy() for mask in (base, full)]
    assert problem.full_swap.median == pytest.approx(np.median(effects))
    assert problem.full_swap.base_level == pytest.approx(np.median(levels[0]))
    assert problem.full_swap.swapped_level == pytest.approx(np.median(levels[1]))
    assert problem.breakdown(MASK).rows[-1].median == pytest.approx(np.median(problem.effects(MASK).numpy()))
    assert measure(model("gpt2"), task(count)).overall.base_median == pytest.approx(np.median(levels[0]))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_keeping_everything_is_1_to_1_in_the_breakdown_too() -> None:
    problem = ct.LanguageProblem(model("gpt2"), copied(24, 1)[0], mode="keep", holdout=0, direction="maximise")
    found = problem.breakdown(torch.zeros(12))
    assert found.rows[-1].interval == pytest.approx((1, 1), abs=1e-9)
    full = problem.training.full_swap.numpy()
    own = next(row for row in found.rows if row.value == "a")
    assert own.effect == pytest.approx(full[::2].mean() / full.mean())
    assert own.interval is not None
    assert np.ptp(own.interval) > 0.01
