"""Held-out pairs that judge: whole groups, as many as asked for, said wherever figures stand."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from cotrace.errors import InputError
from cotrace.evaluation.evidence import evaluate
from cotrace.problem import Constrained, Constraint, LanguageProblem, WeightedSum, builder
from cotrace.search import Attribution
from tests import tiny
from tests.problem.test_search_pairs import grouped

OPTIONS = {"sites": ["head_output"], "holdout": 0.5, "direction": "maximise"}
SEARCH = Attribution(at="none", max_size=3)


def problem(judge_pairs: int | str | None = None, count: int = 24, **more: Any) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), grouped(count), judge_pairs=judge_pairs, **OPTIONS | more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # so few pairs have no intervals
        yield


def test_whole_groups_judge_and_no_more_pairs_than_asked_for() -> None:
    some, whole = problem(5), problem("all")
    ids, all_ids = some.heldout.ids, whole.heldout.ids  # type: ignore[union-attr]
    assert (len(ids), len(all_ids)) == (4, 12)
    assert set(ids) < set(all_ids)
    labels = some.groups_of(all_ids)
    assert all(labels.count(label) == 2 for label in some.groups_of(ids))
    assert ids == problem(5).heldout.ids  # type: ignore[union-attr]
    assert ids != problem(5, seed=4).heldout.ids  # type: ignore[union-attr]
    assert some.training.ids == whole.training.ids
    assert some.plan.heldout_pairs == whole.plan.judged_pairs == 12
    assert (some.plan.judged_pairs, some.heldout_size) == (4, 12)
    assert "4 of 12 held-out pairs judge, whole groups drawn by seed 0" in some.question["split"]
    assert "judge" not in problem().question["split"]


def test_a_thousand_judge_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert builder.JUDGED == 1000
    assert problem().heldout.size == 12  # type: ignore[union-attr]
    monkeypatch.setattr(builder, "JUDGED", 6)
    assert problem().heldout.size == 6  # type: ignore[union-attr]
    assert problem("all").heldout.size == 12  # type: ignore[union-attr]
    monkeypatch.setattr(builder, "JUDGED", 1)
    assert problem().heldout.size == 2, "one whole group at least"  # type: ignore[union-attr]


def test_a_frontier_and_its_evaluation_are_of_the_pairs_that_judge() -> None:
    some, whole = problem(4), problem("all")
    found = SEARCH(some)
    assert found.effects_heldout is not None
    assert found.effects_heldout.effects.shape == (3, 4)
    ids = whole.heldout.ids  # type: ignore[union-attr]
    rows = [ids.index(name) for name in some.heldout.ids]  # type: ignore[union-attr]
    for selection in found:
        mask = torch.from_numpy(whole.space.indicator(selection.members)).double()
        effects = whole.heldout.effects(mask)  # type: ignore[union-attr]
        assert selection.effect_heldout == pytest.approx(effects[rows].mean().item(), abs=1e-6)
    told = evaluate(some, found)
    assert told.pairs == 4
    assert any("4 of 12 held-out pairs judge" in note for note in told.notes)
    assert any("4 of 12 held-out pairs judge" in sentence for sentence in told.verdict)
    assert not any("judge" in note for note in evaluate(whole, SEARCH(whole)).notes)


def test_an_evaluation_may_judge_on_other_pairs() -> None:
    some = problem(4)
    found = SEARCH(some)
    more = evaluate(some, found, judge_pairs="all")
    assert (more.pairs, evaluate(some, found, judge_pairs=6).pairs) == (12, 6)
    mask = torch.from_numpy(some.space.indicator(found.at(more.k).members)).double()
    every = problem("all").heldout
    assert every is not None
    assert more.chosen.effect == pytest.approx(every.value(mask).item(), abs=1e-6)


def test_goals_judge_on_the_pairs_of_their_problems() -> None:
    some, other = problem(4), problem(6, seed=1)
    both = WeightedSum([(0.5, some), (0.5, other)])
    assert both.heldout is not None
    assert both.heldout.size == 10
    assert both.heldout.drawn.count("held-out pairs judge") == 2
    bound = Constrained(some, [Constraint(other, 100.0)])
    assert bound.heldout is not None
    assert bound.heldout.drawn == some.heldout.drawn  # type: ignore[union-attr, attr-defined]
    with pytest.raises(InputError, match="give judge_pairs to each LanguageProblem"):
        evaluate(both, SEARCH(both), judge_pairs=4)


@pytest.mark.parametrize(
    ("given", "reason"), [(0, "at least 1 pair"), (1, "in groups of 2 or more"), ("some", "'all'")]
)
def test_what_no_pairs_can_be_drawn_for_is_refused(given: int | str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        problem(given)
