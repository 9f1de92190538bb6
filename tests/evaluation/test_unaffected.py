"""Accuracy on the pairs that the full swap leaves alone, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError
from cotrace.evaluation.evidence import UNAFFECTED, unaffected
from tests.tiny import model, task

SITES = ["head_output"]
MOVED = 8


def still_and_moved(still: int) -> ct.Task:
    """Of 400 random pairs some that the full swap moves by next to nothing, though single heads do, and the most moved.

    Two more have a counterfactual that equals the base.
    """
    whole = task(400)
    problem = ct.LanguageProblem(model("gpt2"), whole, sites=SITES, holdout=0, direction="maximise")
    order = problem.effects(torch.ones(len(problem.space))).abs().argsort().tolist()
    pairs = [whole.pairs[i] for i in (*order[: still - 2], *order[-MOVED:])]
    same = [replace(pair, id=f"{pair.id}-same", counterfactual=pair.base) for pair in pairs[-2:]]
    return replace(whole, pairs=(*pairs, *same))


def shares(problem: ct.LanguageProblem, mask: torch.Tensor, ids: list[str]) -> torch.Tensor:
    """The right answer's share of the answers' probability, of these pairs of the whole problem."""
    own = dict(zip(problem.training.ids, problem.scores(mask).exp(), strict=True))
    targets = {pair.id: pair.target for pair in problem.source_task.pairs}
    return torch.stack([own[name][targets[name]] / own[name].sum() for name in ids])


def test_accuracy_changes_as_counted_by_hand() -> None:
    problem = ct.LanguageProblem(model("gpt2"), still_and_moved(10), sites=SITES, holdout=0, direction="maximise")
    found = unaffected(problem)
    ids = [pair.id for pair in problem.source_task.pairs]
    expected = [*ids[:8], *ids[-2:]]
    assert sorted(found.training.ids) == sorted(expected)
    effects = dict(zip(problem.training.ids, problem.effects(torch.ones(12)).abs().tolist(), strict=True))
    limit = UNAFFECTED * sum(effects.values()) / len(effects)
    assert max(effects[name] for name in expected) < limit < min(effects[name] for name in ids[8:-2])
    masks = [*torch.eye(12), *(1 - torch.eye(12))]
    after = torch.stack([shares(problem, mask, expected) for mask in masks])
    changes = (after - shares(problem, torch.zeros(12), expected)).mean(1)
    assert found.metric == "accuracy"
    assert found.value(torch.stack(masks)).tolist() == pytest.approx(changes.tolist(), abs=1e-12)
    assert found.reported(torch.stack(masks)).tolist() == pytest.approx((after > 0.5).double().mean(1).tolist())
    assert float(changes.abs().max()) > 1e-5, "some head alone moves pairs that the full swap leaves alone"


def test_too_few_such_pairs_are_said() -> None:
    problem = ct.LanguageProblem(model("gpt2"), still_and_moved(7), sites=SITES, holdout=0, direction="maximise")
    with pytest.raises(InputError, match="needs at least 8 pairs that the full swap leaves alone, and there are 7"):
        unaffected(problem)
