"""Whole evaluations of problems whose answer is known: costs, members, roles, curves, comparisons, verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch
from torch import Tensor

from cotrace.components import Component
from cotrace.errors import InputError, UnknownName
from cotrace.evaluation import (
    LEVELS,
    Evaluation,
    Foreign,
    TooFewPairs,
    alternatives_searched,
    applied,
    cross_fit,
    evaluate,
    predict,
    search_again,
)
from cotrace.evaluation._sizes import faithfulness
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.subproblem import Subproblem
from cotrace.results import Frontier, Selection
from cotrace.search import Exhaustive, Pursuit, TopK
from tests.evaluation.problems import Judged, judged
from tests.problems import all_of, any_of, modular

MEMBERS = ("L0.head0", "L0.head1", "L0.head2", "L1.head0", "L1.head1")


def circuit(s: Tensor) -> Tensor:
    """A main part with a backup, a part of its own, two that act only together, and an inhibitor."""
    main = s[:, 0] * (0.4 + 0.6 * s[:, 1]) + 0.5 * s[:, 2] + 0.3 * s[:, 4] * s[:, 5]
    return main - 0.3 * s[:, 3] + 0.002 * s[:, 6:].sum(1)


@pytest.fixture(scope="module")
def problem() -> Judged:
    return judged(circuit, 24)


@pytest.fixture(scope="module")
def frontier(problem: Judged) -> Frontier:
    return Pursuit()(problem)


@pytest.fixture(scope="module")
def full(problem: Judged, frontier: Frontier) -> Evaluation:
    return evaluate(problem, frontier, level="full", k=5)


def total(problem: Judged) -> float:
    return problem.cost.forward_equivalents + problem.heldout.cost.forward_equivalents


def test_effects_and_intervals_are_those_of_the_heldout_pairs(problem: Judged, full: Evaluation) -> None:
    assert full.judged_on == "held-out"
    assert full.components == MEMBERS
    factors = problem.heldout.factors.numpy()
    assert full.chosen.effect == pytest.approx(1.8 * factors.mean(), rel=1e-5)
    assert full.chosen.interval is not None
    low, high = full.chosen.interval
    spread = 1.8 * factors.std(ddof=1) / np.sqrt(30)
    assert (low, high) == pytest.approx(
        (full.chosen.effect - 2.05 * spread, full.chosen.effect + 2.05 * spread), rel=0.03
    )
    assert full.chosen.median == pytest.approx(1.8 * np.median(factors), rel=1e-5)


@pytest.mark.parametrize("level", ["quick", "standard", "full"])
@pytest.mark.parametrize("stored", [True, False])
def test_no_level_costs_more_than_it_says(level: str, stored: bool) -> None:
    """At N = 144, counted by the problem itself."""
    problem = judged(circuit, 144, size=12, unseen=12)
    frontier = TopK()(problem)
    if not stored:
        frontier = Frontier.from_dict(frontier.to_dict())
    planned = predict(problem, frontier, level=level, k=20)
    before = total(problem)
    found = evaluate(problem, frontier, level=level, k=20)
    spent = total(problem) - before
    assert spent == pytest.approx(found.forward_equivalents)
    assert (
        spent <= planned.forward_equivalents <= {"quick": 143 if stored else 151, "standard": 600, "full": 1500}[level]
    )


def test_members_are_needed_and_the_rest_can_do_nothing(full: Evaluation) -> None:
    assert full.minimality is not None
    assert full.completeness is not None
    assert {member.component: member.status for member in full.minimality.members} == dict.fromkeys(MEMBERS, "needed")
    losses = {member.component: member.loss for member in full.minimality.members}
    scale = full.chosen.effect / 1.8
    assert losses["L0.head0"] == pytest.approx(1.0 * scale, rel=1e-4)
    assert losses["L0.head1"] == pytest.approx(0.6 * scale, rel=1e-4)
    assert full.completeness.rest_effect == pytest.approx((-0.3 + 0.036) * scale, rel=1e-3)


def test_a_member_that_does_nothing_can_leave(problem: Judged, frontier: Frontier) -> None:
    idle = replace(frontier.at(5), members=(*frontier.at(5).members, problem.space[20]))
    found = evaluate(problem, idle, level="standard")
    assert found.minimality is not None
    status = {member.component: member.status for member in found.minimality.members}
    assert status["L5.head0"] == "can leave"
    assert found.minimality.left_together == pytest.approx(found.chosen.effect, rel=0.01)
    assert any("L5.head0" in sentence and "can leave" in sentence for sentence in found.verdict)


def test_backups_inhibitors_and_pairs_are_named(full: Evaluation) -> None:
    assert full.interactions is not None
    assert ("L0.head1", "L0.head0") in {(row.component, row.of) for row in full.interactions.backups}
    assert "L0.head0" not in {row.component for row in full.interactions.backups}
    assert [row.component for row in full.interactions.inhibitors] == ["L0.head3"]
    assert full.interactions.inhibitors[0].change == pytest.approx(-0.3 * full.chosen.effect / 1.8, rel=1e-3)
    kinds = {pair.components: pair.kind for pair in full.interactions.pairs}
    synergies = {pair for pair, kind in kinds.items() if kind == "synergy"}
    assert synergies == {("L0.head0", "L0.head1"), ("L1.head0", "L1.head1")}
    assert "redundancy" not in kinds.values()


def test_a_backup_outside_the_selection_is_found(problem: Judged) -> None:
    chosen = Selection.parse(["L0.head0", "L0.head2"])
    found = evaluate(problem, chosen, level="full")
    assert found.interactions is not None
    assert ("L0.head1", "the selection") in {(row.component, row.of) for row in found.interactions.backups}


def test_redundant_members_are_redundant() -> None:
    problem = judged(lambda s: any_of(s, [0, 1]) + 0.5 * s[:, 2], 8)
    found = evaluate(problem, Selection.parse(["0.0", "0.1", "0.2"]), level="standard")
    assert found.interactions is not None
    assert found.minimality is not None
    pair = next(pair for pair in found.interactions.pairs if pair.components == ("L0.head0", "L0.head1"))
    assert pair.kind == "redundancy"
    assert pair.within == pytest.approx(-found.chosen.effect / 1.5, rel=1e-4)
    assert found.minimality.left_together == pytest.approx(found.chosen.effect / 3, rel=1e-4)


def test_planted_components_come_back_and_others_do_not() -> None:
    problem = judged(lambda s: all_of(s, [3, 8, 9, 11]) + 0.001 * s.sum(1), 12, noise=0.5)
    found = evaluate(problem, Exhaustive(max_size=4)(problem), k=4)
    inclusion = found.stability[0].inclusion
    planted = {str(problem.space[i]) for i in (3, 8, 9, 11)}
    assert found.stability[0].sets == comb(12, 4)
    assert found.stability[0].method == "archive bootstrap"
    assert {name for name, share in inclusion.items() if share == 1} == planted
    assert all(share <= 0.1 for name, share in inclusion.items() if name not in planted)
    assert found.stability[0].jaccard == 1


def test_searching_again_finds_the_planted_circuit(problem: Judged) -> None:
    before = problem.cost.forward_equivalents
    found = search_again(problem, Pursuit(max_size=5), 5, runs=3)
    assert {name for name, share in found.inclusion.items() if share == 1} == set(MEMBERS)
    assert found.forward_equivalents == pytest.approx(problem.cost.forward_equivalents - before)


def test_forbidding_members_finds_the_other_circuit() -> None:
    def twins(s: Tensor) -> Tensor:
        return 1 - (1 - all_of(s, [0, 1])) * (1 - 0.99 * all_of(s, [5, 6]))

    problem = judged(twins, 12)
    judge, chosen = Evaluator(problem.heldout), np.zeros(12, bool)
    chosen[[0, 1]] = True
    other = next(alternatives_searched(problem, judge, Exhaustive(max_size=2), chosen, 1))
    assert other.components == ("L1.head1", "L1.head2")
    assert other.near_equal
    assert other.overlap == 0


def test_a_space_without_members_never_chooses_them(problem: Judged) -> None:
    view = Subproblem(problem, without=[problem.space[0]])
    z = torch.rand(23)
    whole = torch.cat([torch.zeros(1), z])
    assert torch.equal(view.value(z), problem.value(whole))
    assert torch.equal(view.gradient(z), problem.gradient(whole)[1:])


def test_random_sets_do_less_and_the_single_effects_are_beaten(full: Evaluation) -> None:
    assert full.controls is not None
    assert full.controls.p_value == full.controls.smallest_p == pytest.approx(0.01)
    assert full.chosen.p_adjusted is not None
    assert full.chosen.p_adjusted <= 0.05
    assert full.chosen.over_single is not None
    assert full.chosen.over_single[0] > 0
    assert any("does more than random sets" in sentence for sentence in full.verdict)


def test_every_size_has_an_adjusted_p_value_where_that_is_asked_for(problem: Judged, frontier: Frontier) -> None:
    planned = predict(problem, frontier, every_size=True)
    before = total(problem)
    found = evaluate(problem, frontier, every_size=True)
    assert total(problem) - before <= planned.forward_equivalents
    assert [row.k for row in found.sizes] == list(frontier.sizes)
    assert all(row.p_adjusted is not None and row.p_adjusted >= row.p_value for row in found.sizes)
    assert all(selection.p_value is not None for selection in applied(frontier, found))


def test_p_of_a_random_selection_is_not_small() -> None:
    """Effects that do not depend on which components are chosen: no set is better than another."""
    problem = judged(lambda s: s.sum(1), 24)
    found = evaluate(problem, Selection.parse(["0.0", "2.1", "3.3", "5.2"]))
    assert found.controls is not None
    assert found.controls.p_value == 1
    assert any("not shown to do more than random sets" in sentence for sentence in found.verdict)


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_faithfulness_areas_by_hand(mode: str) -> None:
    """Kept alone, a set of weights w restores its share of them; over nested sets the areas are sums of trapezoids."""
    weights = [4.0, 3.0, 2.0, 1.0]

    def formula(s: Tensor) -> Tensor:
        return modular([w / 10 for w in weights])(s)

    problem = judged(formula, 4, mode=mode, noise=0.0)
    chosen = np.array([[1, 0, 0, 0], [1, 1, 1, 0]], bool)
    found = faithfulness(problem.heldout, chosen)
    assert found.faithfulness == pytest.approx((0.4, 0.9))
    assert found.cpr == pytest.approx(0.25 * 0.4 / 2 + 0.5 * (0.4 + 0.9) / 2 + 0.25 * (0.9 + 1) / 2)
    assert found.cmd == pytest.approx(1 - found.cpr)
    assert found.sets_found_in == mode


def test_faithfulness_is_refused_without_a_swing() -> None:
    problem = judged(lambda s: s[:, 0] - s[:, 1], 4, noise=0.0)
    found = faithfulness(problem.heldout, np.eye(4, dtype=bool)[:1])
    assert (found.cpr, found.cmd) == (None, None)
    assert "nothing to normalise by" in found.refused


def test_somebody_else_s_set(problem: Judged, frontier: Frontier) -> None:
    parse = Component.parse
    theirs = tuple(map(parse, ["0.0", "0.1", "0.2", "5.0", "5.1", "40.1"]))
    roles = {"main": theirs[:3], "idle": theirs[3:5]}
    found = evaluate(problem, frontier, foreign=[Foreign("theirs", theirs, roles)]).foreign[0]
    assert found.outside_space == ("L40.head1",)
    assert found.shared == ("L0.head0", "L0.head1", "L0.head2")
    assert found.overlap == pytest.approx(3 / 7)
    assert found.effect == pytest.approx(1.504 * problem.heldout.factors.mean().item(), rel=1e-5)
    assert found.difference is not None
    assert found.difference[0] > 0
    assert found.auroc["main"] > 0.9 > found.auroc["idle"]
    with pytest.raises(InputError, match="none of its 1 components"):
        evaluate(problem, frontier, foreign=[Foreign("strange", (parse("40.0"),))])


def test_difference_of_two_searches_is_paired(problem: Judged, frontier: Frontier) -> None:
    other = TopK()(problem)
    found = evaluate(problem, [frontier, other], k=5)
    row = next(row for row in found.differences if row.k == 5)
    own, theirs = (float(problem.heldout.value(mask(problem, one.at(5)))) for one in (frontier, other))
    assert row.difference == pytest.approx(own - theirs, rel=1e-5)
    assert row.interval is not None
    assert row.interval[0] > 0


def mask(problem: Judged, selection: Selection) -> Tensor:
    z = torch.zeros(problem.n)
    z[list(problem.space.indices(selection.members))] = 1
    return z


def test_certificate_of_a_small_space() -> None:
    problem = judged(circuit, 8)
    found = evaluate(problem, TopK()(problem), level="full", k=2)
    best = Exhaustive()(problem).at(2)
    assert found.certificate is not None
    assert found.certificate.optimum == pytest.approx(best.effect)
    assert found.certificate.gap == pytest.approx((best.effect or 0) - found.certificate.effect)


def test_pairs_that_go_further_than_the_full_swap_are_named() -> None:
    """Component 0 alone moves each pair by 5, and component 1 takes 4 of that back; everything together moves 1."""
    problem = judged(lambda s: 5 * s[:, 0] - 4 * s[:, 1], 12, noise=0.1)
    found = evaluate(problem, [TopK()(problem)], k=1)
    assert found.off_manifold
    flag = next(row for row in found.off_manifold if row.k == 1)
    factors = problem.heldout.factors.numpy()
    assert flag.pairs == 30
    assert flag.id == str(int(factors.argmax()))
    assert flag.effect == pytest.approx(5 * factors.max(), rel=1e-5)
    assert flag.limit == pytest.approx(2 * factors.max(), rel=1e-5)
    assert any("Off the manifold" in sentence and f"pair {flag.id}," in sentence for sentence in found.verdict)
    calm = judged(lambda s: s[:, 0] + s[:, 1], 12, noise=0.1)
    assert evaluate(calm, TopK()(calm)).off_manifold == ()


def test_no_bound_is_claimed_where_none_is_known(full: Evaluation) -> None:
    assert full.certificate is not None
    assert full.certificate.optimum is None
    assert "no upper bound is known" in full.certificate.words
    bounded = judged(circuit, 30, metric="probability")
    found = evaluate(bounded, Pursuit(max_size=6)(bounded), level="full", k=6).certificate
    assert found is not None
    assert found.bound == 1.0


def test_side_effects_are_measured_on_the_other_problem(problem: Judged, frontier: Frontier) -> None:
    text = judged(modular([0.1] * 24), 24, noise=0.0, metric="nll", task="neutral")
    found = evaluate(problem, frontier, level="standard", k=5, side=[text]).side_effects[0]
    assert found.change == pytest.approx(0.5)
    assert found.per_size[5] == pytest.approx(0.5)
    assert (found.metric, found.task) == ("nll", "neutral")


def test_cross_fitting_judges_every_pair_out_of_sample() -> None:
    problem = judged(circuit, 12, size=30)
    found = cross_fit(problem, TopK(max_size=3), count=5)
    assert [row.k for row in found.rows] == [1, 2, 3]
    assert found.rows[0].effect == pytest.approx(0.5 * problem.factors.mean().item(), rel=1e-5)
    assert found.rows[0].jaccard == 1
    with pytest.raises(InputError, match="31 folds"):
        cross_fit(problem, TopK(), count=31)


def test_a_record_reads_back_as_it_was_written(full: Evaluation) -> None:
    assert Evaluation.from_dict(json.loads(json.dumps(full.to_dict(), allow_nan=False))) == full


def test_frontiers_take_up_intervals_and_p_values(frontier: Frontier, full: Evaluation) -> None:
    filled = applied(frontier, full)
    row = next(row for row in filled.rows() if row["k"] == 5)
    assert (row["ci_low"], row["ci_high"]) == full.chosen.interval
    assert row["p_value"] == full.chosen.p_adjusted
    again = Frontier.from_dict(json.loads(json.dumps(filled.to_dict())))
    assert again.at(5).moved_share == 1


def test_an_effect_that_is_not_there_is_not_claimed() -> None:
    problem = judged(lambda s: 0.05 * s[:, 0], 8, noise=30.0)
    found = evaluate(problem, Pursuit()(problem), level="standard", k=1)
    assert found.verdict[0].startswith(
        "No effect is shown: on 30 pairs, held-out, the interval of the full swap covers 0"
    )
    assert any("cannot be told from none" in sentence for sentence in found.verdict)
    assert found.faithfulness is not None
    assert found.faithfulness.cpr is None


def test_too_few_pairs_leave_the_column_empty_with_one_warning() -> None:
    problem = judged(circuit, 8, unseen=5)
    frontier = TopK()(problem)
    with pytest.warns(TooFewPairs, match="at least 10 independent pairs, and these are 5 pairs") as seen:
        found = evaluate(problem, frontier)
    assert len(seen) == 1
    assert all(row.interval is None for row in found.sizes)
    with pytest.raises(InputError, match="at least 10 pairs, and these are 5"):
        evaluate(problem, frontier, intervals=True)


def test_what_cannot_be_asked() -> None:
    problem = judged(circuit, 8)
    frontier = TopK()(problem)
    with pytest.raises(InputError, match=r"needs 999 controls, and only 28 sets"):
        evaluate(problem, frontier, k=2, smallest_p=0.001)
    with pytest.raises(InputError, match="no audit pairs"):
        evaluate(problem, frontier, pairs="audit")
    with pytest.raises(UnknownName, match="choose one of full, quick, standard"):
        evaluate(problem, frontier, level="deep")
    with pytest.raises(InputError, match="on the problem that it was found on"):
        evaluate(judged(circuit, 9), frontier)


def test_more_controls_are_drawn_for_a_smaller_p(problem: Judged, frontier: Frontier) -> None:
    found = evaluate(problem, frontier, k=5, smallest_p=0.01)
    assert found.controls is not None
    assert found.controls.chains == 99
    assert set(LEVELS) == {"quick", "standard", "full"}


@pytest.mark.parametrize("groups", [None, 1])
@pytest.mark.parametrize("level", ["standard", "full"])
def test_one_unit_is_judged_without_intervals(groups: int | None, level: str) -> None:
    """Of one pair, or of one group of pairs, a sign flip has two outcomes: no p-value is below one half."""
    problem = judged(circuit, 24, unseen=1 if groups is None else 12, groups=groups)
    with pytest.warns(TooFewPairs):
        found = evaluate(problem, TopK()(problem), level=level, k=5)
    assert found.minimality is not None
    assert {member.p_adjusted for member in found.minimality.members} == {1.0}, "0.5 times five tests, at most 1"
    assert {member.status for member in found.minimality.members} == {"undecided"}
    assert found.chosen.interval is None


def test_the_certificate_counts_more_sets_than_a_float_holds() -> None:
    n, k = 1_500, 750
    problem = judged(lambda s: torch.tanh(s.sum(1) / n), n, size=1, unseen=1)
    chosen = Selection(members=tuple(problem.space[i] for i in range(k)))
    with pytest.warns(TooFewPairs):
        found = evaluate(problem, chosen, level="standard").certificate
    assert found is not None
    digits = str(comb(n, k))
    assert f"not all {digits[0]}.{round(int(digits[1:6]) / 100):03d}e+{len(digits) - 1} sets of 750" in found.words
