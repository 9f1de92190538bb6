"""Effects that came with a result are used only on the problem that they are of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError
from cotrace.evaluation import evaluate, predict, with_intervals
from cotrace.results import Frontier, Selection
from cotrace.results.effects import EffectTable
from cotrace.search import Greedy, Random, TopK
from tests.evaluation.problems import Judged, judged
from tests.problems import modular
from tests.tiny import model, task

FIRST, SECOND = modular([0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), modular([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def read_again(frontier: Frontier) -> Frontier:
    """As from a file: nothing is known of where its effects were measured."""
    tables = {name: getattr(frontier, name) for name in ("effects", "effects_heldout")}
    return replace(frontier, **{n: EffectTable(t.n, t.keys.copy(), t.effects.copy()) for n, t in tables.items()})


def total(problem: Judged) -> float:
    return problem.cost.forward_equivalents + problem.heldout.cost.forward_equivalents


def test_stored_effects_of_another_problem_are_not_used() -> None:
    one, two = judged(FIRST, 6), judged(SECOND, 6)
    frontier = Greedy()(one)
    found = evaluate(two, frontier, k=2)
    chosen = torch.tensor([1.0, 1, 0, 0, 0, 0])
    assert found.components == ("L0.head0", "L0.head1")
    assert found.chosen.effect == pytest.approx(two.heldout.value(chosen).item())
    assert found.training_effect == pytest.approx(two.value(chosen).item())
    assert sum("not those of this problem" in note for note in found.notes) == 1
    assert with_intervals(two, frontier).at(2).interval is None
    assert with_intervals(one, frontier).at(2).interval == evaluate(one, frontier, k=2).chosen.interval
    own = evaluate(one, frontier, k=2)
    assert own.chosen.effect == pytest.approx(one.heldout.value(chosen).item())
    assert not any("not those of this problem" in note for note in own.notes)


def test_effects_from_a_file_are_checked_once_and_then_used() -> None:
    problem = judged(FIRST, 6)
    frontier = Greedy()(problem)
    again = read_again(frontier)
    before = total(problem)
    kept = evaluate(problem, frontier, k=2)
    middle = total(problem)
    read = evaluate(problem, again, k=2)
    assert (total(problem) - middle) - (middle - before) == pytest.approx(2)
    assert read.chosen == kept.chosen
    assert read.stability == kept.stability
    extra = predict(problem, again, k=2).forward_equivalents - predict(problem, frontier, k=2).forward_equivalents
    assert extra == 2


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("change", [{"metric": "probability"}, {"donors": "zero"}, {"seed": 1}])
def test_a_language_model_asked_another_question(change: dict[str, object]) -> None:
    pairs, options = task(40), {"direction": "maximise", "holdout": 0.5}
    one = ct.LanguageProblem(model("gpt2"), pairs, **options)
    two = ct.LanguageProblem(model("gpt2"), pairs, **(options | change))
    frontier = Greedy(max_size=3)(one)
    found = ct.evaluate(two, frontier, k=3)
    assert two.heldout is not None
    assert found.chosen.effect == pytest.approx(two.heldout.value(frontier.at(3)).item(), rel=1e-5)
    assert any("not those of this problem" in note for note in found.notes)


def test_a_selection_that_was_found_elsewhere_has_the_effect_that_it_has_here() -> None:
    one, two = judged(FIRST, 6), judged(SECOND, 6)
    found = evaluate(two, Greedy()(one).at(2))
    assert found.training_effect == pytest.approx(two.value(torch.tensor([1.0, 1, 0, 0, 0, 0])).item())
    bare = evaluate(two, Selection.parse(["0.0", "0.1"]))
    assert bare.training_effect is None


def test_other_frontiers_must_answer_the_same_question() -> None:
    problem, other = judged(FIRST, 6), judged(FIRST, 6, metric="nll")
    frontier = Greedy()(problem)
    with pytest.raises(InputError, match=r"greedy and topk differ in metric \(greedy: log_odds; topk: nll\)"):
        evaluate(problem, [frontier, TopK()(other)])
    with pytest.raises(InputError, match="differ in mode"):
        evaluate(problem, [frontier, TopK()(judged(FIRST, 6, mode="keep"))])
    with pytest.raises(InputError, match="differ in components"):
        evaluate(problem, [frontier, TopK()(judged(modular([1.0] * 5), 5))])
    found = evaluate(problem, [frontier, TopK()(judged(SECOND, 6))], k=2)
    row = next(row for row in found.differences if row.k == 2)
    wanted = FIRST(torch.tensor([[1.0, 1, 0, 0, 0, 0]]).double()) - FIRST(torch.tensor([[0, 0, 0, 0, 1.0, 1]]).double())
    assert row.difference == pytest.approx((wanted * problem.heldout.factors.mean()).item())  # measured here, not there


def test_side_problems_must_have_the_same_components_and_measure_a_change() -> None:
    problem = judged(FIRST, 6)
    frontier = Greedy()(problem)
    elsewhere = replace(judged(FIRST, 6))
    elsewhere.__dict__["space"] = ct.ComponentSpace.parse([f"L{i}.mlp" for i in range(6)])
    with pytest.raises(InputError, match="give both problems the same sites"):
        evaluate(problem, frontier, side=[elsewhere])
    with pytest.raises(InputError, match="a side problem measures a change"):
        evaluate(problem, frontier, side=[judged(FIRST, 6, mode="keep")])


def test_in_keep_mode_the_side_effect_is_of_all_but_the_chosen_and_says_so() -> None:
    problem = judged(FIRST, 6, mode="keep", noise=0.0)
    text = judged(modular([1.0, 2, 4, 8, 16, 32]), 6, metric="nll", task="neutral", noise=0.0)
    found = evaluate(problem, Greedy()(problem), k=2, side=[text])
    assert found.components == ("L0.head0", "L0.head1")
    assert found.side_effects[0].change == pytest.approx(4 + 8 + 16 + 32)
    assert found.side_effects[0].mode == "keep"
    assert any("with all but the selected swapped, nll on neutral" in line for line in found.verdict)


@pytest.mark.parametrize("search", [TopK(), Random(draws=1)], ids=lambda search: search.name)
def test_one_stored_set_of_a_size_shows_no_stability(search: TopK | Random) -> None:
    problem = judged(FIRST, 6)
    found = evaluate(problem, search(problem), k=3)
    assert found.stability == ()
    assert any("kept effects of 1 set of 3, which leaves nothing to choose from" in note for note in found.notes)
    assert not any("members come back" in line for line in found.verdict)


def test_no_stored_set_of_the_size_is_no_crash_and_few_are_said_to_be_few() -> None:
    problem = judged(FIRST, 6)
    frontier = Greedy()(problem)
    assert frontier.effects is not None
    rows = frontier.effects.chosen.sum(1) != 3
    without = replace(frontier, effects=EffectTable.of(frontier.effects.chosen[rows], frontier.effects.effects[rows]))
    found = evaluate(problem, without, k=3)
    assert found.stability == ()
    assert any("kept effects of 0 sets of 3" in note for note in found.notes)
    several = evaluate(problem, frontier, k=3)
    assert several.stability[0].sets == 4
    assert any("among the 4 sets of this size" in line and "shows no stability" in line for line in several.verdict)
    many = evaluate(problem, frontier, k=2)
    assert many.stability[0].sets == 5
    assert not any("shows no stability" in line for line in many.verdict)
