"""Large spaces: nothing of N x N is made, and what is looked up is what was stored."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from cotrace.components import Component, ComponentSpace, Site
from cotrace.evaluation import controls, evaluate
from cotrace.problem import evaluator
from cotrace.problem.evaluator import Evaluator, singles
from cotrace.problem.protocol import Examples
from cotrace.results.effects import EffectTable
from cotrace.search import Attribution, Greedy, TopK, sets
from tests.evaluation.problems import Judged, judged
from tests.problems import ClosedForm, modular

LARGE = 20_000


class Additive(ClosedForm):
    """Weights of many components, whose effects are a vector product: nothing of [mask, n] in double precision."""

    @property
    def space(self) -> ComponentSpace:  # type: ignore[override]
        """Neurons of ten layers."""
        return SPACE

    def effects(self, masks: Tensor, examples: Examples = None) -> Tensor:
        """[*mask, example]."""
        return (masks @ WEIGHT)[..., None] * torch.linspace(0.5, 1.5, self.size)

    def gradient(self, z: Tensor, objective: object = None, examples: Examples = None) -> Tensor:
        """The weights."""
        return WEIGHT


SPACE = ComponentSpace(
    tuple(Component(Site.MLP_NEURON, layer, unit) for layer in range(10) for unit in range(LARGE // 10))
)
WEIGHT = torch.linspace(1, 0, LARGE)


def test_judging_a_large_space_takes_memory_in_proportion() -> None:
    def made(heldout: Additive | None = None) -> Additive:
        return Additive(modular([0.0]), LARGE, 20, heldout=heldout)

    problem = made(made())
    frontier = Attribution(at="none", sizes=(1, 4, 30, 300, 3000, LARGE))(problem)
    tracemalloc.start()
    found = evaluate(problem, frontier, level="standard")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * LARGE * 60 < LARGE**2 / 8, "the identity alone would be larger"
    assert found.minimality is not None
    assert found.controls is not None
    assert found.controls.singles == "gradient"


def test_singles_in_pieces_are_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MASK_ELEMENTS", 3 * 7)
    pieces = list(singles(7))
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    assert np.array_equal(np.concatenate(pieces), np.eye(7, dtype=bool))


def small() -> Judged:
    return judged(modular([3.0, 2.0, 1.0, 0.5, 0.2, 0.1]), 6)


def test_a_judge_knows_which_sets_were_paid_for() -> None:
    problem = small()
    chosen = np.array([True, True, False, True, False, False])
    stored = EffectTable.of(np.eye(6, dtype=bool)[:4], np.ones((4, problem.size)))
    one = Evaluator(problem, stored)
    assert not one.knows_singles
    one.values(np.eye(6, dtype=bool)[4:])
    assert one.knows_singles
    assert one.left(chosen) == []
    without = np.repeat(chosen[None], 2, 0)
    without[0, 3] = without[1, 0] = False
    one.values(without)
    one.values(~chosen[None])
    assert one.left(chosen) == [0, 3]
    again = Evaluator(problem, EffectTable.of(without, np.ones((2, problem.size))))
    assert again.left(chosen) == [0, 3]


def test_a_table_counts_and_unpacks_its_sets() -> None:
    chosen = np.random.default_rng(0).random((9, 13)) < 0.4
    table = EffectTable.of(chosen, np.zeros((9, 2)))
    assert table.sizes.tolist() == chosen.sum(1).tolist()
    assert np.array_equal(table.sets([4, 1]), chosen[[4, 1]])


def test_random_chains_are_the_same_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = np.zeros((2, 12), bool)
    chosen[0, [0, 7]] = chosen[1, [0, 1, 7, 8, 9]] = True
    blocks = [0] * 6 + [1] * 6
    whole = np.concatenate(list(controls.chains(blocks, chosen, 7, seed=5)))
    monkeypatch.setattr(controls, "MASK_ELEMENTS", 2 * chosen.size)
    batches = list(controls.chains(blocks, chosen, 7, seed=5))
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(batches), whole)
    assert (whole[:, :, :6].sum(2) == [1, 2]).all()
    assert (whole[:, :, 6:].sum(2) == [1, 3]).all()
    assert (whole[:, 0] <= whole[:, 1]).all(), "nested"


@pytest.mark.parametrize("search", [TopK(max_size=3), Greedy(max_size=3)], ids=["topk", "greedy"])
def test_candidates_in_pieces_find_the_same(search: TopK | Greedy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(small())
    monkeypatch.setattr(sets, "MASK_ELEMENTS", 2 * 6)
    pieces = search(small())
    assert [one.components for one in pieces] == [one.components for one in whole]
    assert pieces.forward_equivalents == whole.forward_equivalents
