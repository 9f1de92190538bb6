"""Features that no other test would miss: each was once broken on purpose, and everything else stayed green."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.evaluation._minimality import likeliest_to_leave, status
from cotrace.evaluation._sizes import applied, best_singles
from cotrace.evaluation.stability import alternatives_known, cross_fit, search_again
from cotrace.problem.evaluator import Evaluator
from cotrace.results.effects import EffectTable
from cotrace.search import Exhaustive, TopK
from tests.evaluation.problems import judged
from tests.problems import ClosedForm, modular
from tests.tiny import model, task

WORTH = [0.1, 0.9, 0.3, 0.7, 0.2, 0.5]


@pytest.mark.parametrize("mode", ["swap", "keep"])
@pytest.mark.parametrize("direction", ["maximise", "minimise"])
def test_gradients_rank_members_and_singles_by_worth_in_both_modes(mode, direction) -> None:
    problem = judged(modular(WORTH), 6, mode=mode, direction=direction)
    how, sets = best_singles(Evaluator(problem), [2], 0)
    assert (how, np.flatnonzero(sets[0]).tolist()) == ("gradient", [1, 3])
    assert likeliest_to_leave(Evaluator(problem), np.ones(6, bool), 2) == [0, 4]


def test_status_needs_the_whole_interval_below_the_margin() -> None:
    assert status((-0.1, 0.01), 0.5, 0.02) == "can leave"
    assert status((-0.1, 0.5), 0.5, 0.02) == "undecided"


def test_stored_alternatives_are_ranked_by_weighted_effects() -> None:
    problem = judged(modular(WORTH), 6, size=2, unseen=2)
    chosen = np.eye(6, dtype=bool)
    effects = np.zeros((6, 2), np.float32)
    effects[1], effects[2] = (0.0, 4.0), (3.0, 0.0)  # plain means prefer 1, weights 9:1 prefer 2
    units = Evaluator(problem).units
    units = replace(units, weight=np.array([9.0, 1.0]))
    table = EffectTable.of(chosen, effects)
    (found,) = alternatives_known(Evaluator(problem), table, chosen[0], 5, units)
    assert found.components == (problem.space.names[2],)


def test_searching_again_takes_other_pairs_each_time() -> None:
    seen = []
    problem = judged(modular(WORTH), 6)
    inner = problem.effects

    def noted(masks, examples=None):
        seen.append(tuple(examples or ()))
        return inner(masks, examples)

    problem.effects = noted
    search_again(problem, TopK(max_size=1), 1, 3)
    assert len(set(seen)) == 3


def test_cross_fitting_searches_without_the_fold_that_judges() -> None:
    """Each pair moves by a component of its own: out of sample no set does anything for it."""
    problem = ClosedForm(lambda s: s.double(), 6, 6)
    found = cross_fit(problem, Exhaustive(max_size=1), count=6)
    assert found.rows[0].effect == pytest.approx(0)


def test_p_values_on_a_frontier_are_the_adjusted_ones_and_of_heldout_pairs_only() -> None:
    problem = judged(modular(WORTH), 6)
    frontier = TopK(max_size=3)(problem)
    found = ct.evaluate(problem, frontier)
    rows = tuple(replace(row, p_value=0.01, p_adjusted=0.5) for row in found.sizes)
    assert {s.p_value for s in applied(frontier, replace(found, sizes=rows))} == {0.5}
    on_training = applied(frontier, replace(found, sizes=rows, judged_on="training"))
    assert {s.p_value for s in on_training} == {None}


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_a_gap_drawn_again_weighs_pairs_and_knows_the_mode(mode) -> None:
    pairs = tuple(
        replace(p, group="ab"[i % 2], favourable=0, label=i % 2, weight=1.0 + i % 3)
        for i, p in enumerate(task(24).pairs)
    )
    whole = replace(task(24), pairs=pairs, metric="demographic_parity_gap")
    part = ct.LanguageProblem(model("gpt2"), whole, holdout=0.4, mode=mode).heldout
    z = torch.zeros(1, 12)
    z[0, [1, 6]] = 1
    assert part.redrawn(z, np.ones((1, part.size))).item() == pytest.approx(part.value(z).item(), abs=1e-6)
