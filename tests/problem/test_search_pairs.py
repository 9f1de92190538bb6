"""Searching on some of the training pairs: what is seen, what is reported, what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cotrace.errors import InputError
from cotrace.problem import Constrained, Constraint, LanguageProblem, WeightedSum
from cotrace.problem.protocol import mask_of
from cotrace.prompts import Task
from cotrace.search import Greedy, Pursuit
from tests import tiny

OPTIONS = {"sites": ["head_output"], "holdout": 0.25, "direction": "maximise"}


def grouped(count: int = 16) -> Task:
    """Random pairs, of which two and two must stay together."""
    pairs = tiny.task(count).pairs
    return Task(
        name="grouped",
        pairs=tuple(replace(pair, split_group=f"g{i // 2}") for i, pair in enumerate(pairs)),
        metric="log_odds",
    )


def problem(search_pairs: int | None, **more: object) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), grouped(), search_pairs=search_pairs, **OPTIONS | more)  # type: ignore[arg-type]


def test_searches_see_whole_groups_and_no_more_pairs_than_asked_for() -> None:
    some = problem(5)
    seen = some.searched
    ids, all_ids = seen.ids, some.training.ids  # type: ignore[attr-defined]
    assert seen.size == 4
    assert set(ids) < set(all_ids)
    groups = some.groups_of(all_ids)
    assert {group: groups.count(group) for group in some.groups_of(ids)} == dict.fromkeys(some.groups_of(ids), 2)
    assert ids == problem(5).searched.ids  # type: ignore[attr-defined]
    assert ids != problem(5, seed=3).searched.ids  # type: ignore[attr-defined]
    whole = problem(None)
    assert whole.searched is whole
    assert problem(12).searched.size == problem(500).searched.size == 12


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_the_frontier_is_of_all_pairs(mode: str) -> None:
    some, whole = problem(4, mode=mode), problem(None, mode=mode)
    found = Greedy(max_size=3)(some)
    for selection in found:
        mask = torch.zeros(12, dtype=torch.float64)
        mask[list(whole.space.indices(selection.members))] = 1
        mask = mask_of(whole, mask)
        assert selection.effect == pytest.approx(whole.value(mask).item(), abs=1e-9)
        assert whole.heldout is not None
        assert selection.effect_heldout == pytest.approx(whole.heldout.value(mask).item(), abs=1e-9)
    assert found.effects is not None
    assert found.effects.effects.shape == (3, 12)
    seen = Greedy(max_size=3)(some.searched)  # type: ignore[arg-type]
    assert [s.components for s in found] == [s.components for s in seen]
    assert [s.effect for s in found] != [s.effect for s in seen]


def test_costs_are_counted_by_the_share_of_pairs() -> None:
    some = problem(4)
    greedy = Greedy(max_size=3)(some)
    assert greedy.forward_equivalents == pytest.approx((12 + 11 + 10) / 3 + 3)
    gradient = some.searched.gradient
    before = some.cost.forward_equivalents
    gradient(torch.zeros(12, dtype=torch.float64))
    assert some.cost.forward_equivalents - before == pytest.approx(2 / 3)
    assert Pursuit()(some).forward_equivalents < 0.6 * Pursuit()(problem(None)).forward_equivalents


def test_goals_pass_the_subset_on() -> None:
    some, other = problem(4), problem(6, seed=1)
    both = WeightedSum([(0.5, some), (0.5, other)])
    assert both.searched.size == 10
    assert WeightedSum([(1, problem(None)), (1, problem(None))]).searched.size == 24
    bound = Constrained(some, [Constraint(problem(None), eps=5.0)])
    found = Greedy(max_size=2)(bound)
    whole = problem(None)
    mask = torch.zeros(12, dtype=torch.float64)
    mask[list(whole.space.indices(found.at(2).members))] = 1
    assert bound.searched.size == 4
    assert found.at(2).effect == pytest.approx(whole.value(mask).item(), abs=1e-9)


def test_a_group_larger_than_the_subset_is_refused() -> None:
    with pytest.raises(InputError, match="search_pairs is 1, and pairs that must stay together come in groups of 2"):
        problem(1)
    with pytest.raises(InputError, match="search_pairs is 0: give at least 1 pair"):
        problem(0)
