"""The table of single effects against effects asked for one by one, a closed form, and finite differences."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.problem import LanguageProblem
from cotrace.problem.evaluator import COLUMNS, single_effects
from cotrace.statistics import Units, mean_interval
from tests import tiny
from tests.problems import ClosedForm, modular

WEIGHTS = [0.5, -2.0, 0.25, 3.0, 0.0, 1.0]


@cache
def problem(count: int = 16, **options: Any) -> LanguageProblem:
    given: dict[str, Any] = {"sites": ("head_output", "mlp_output"), "direction": "maximise", "holdout": 0.3} | options
    return LanguageProblem(tiny.model("gpt2"), tiny.task(count, metric=given.pop("metric", "log_odds")), **given)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_where_effects_add_up_each_is_its_weight(exact: bool, mode: Any) -> None:
    """A closed form, in which a gradient is exact too."""
    frame = single_effects(ClosedForm(modular(WEIGHTS), 6, mode=mode), exact)
    assert frame["effect"].tolist() == pytest.approx(WEIGHTS, abs=1e-6)
    assert frame["component"].tolist() == ["L0.head0", "L0.head1", "L0.head2", "L0.head3", "L1.head0", "L1.head1"]
    assert frame["effect_heldout"].isna().all()


@pytest.mark.parametrize("mode", ["swap", "keep"])
def test_exact_effects_are_those_of_each_set_of_one(mode: Any) -> None:
    one = problem(mode=mode)
    spent = one.cost.forward_equivalents
    frame = one.single_effects()
    assert one.cost.forward_equivalents == spent + len(one.space) + (mode == "keep")
    assert tuple(frame.columns) == COLUMNS
    assert one.heldout is not None
    for row, member in zip(frame.itertuples(), one.space, strict=True):
        alone = ct.Selection(members=(member,))
        assert row.effect == pytest.approx(one.value(alone).item(), abs=1e-9)
        assert row.effect_heldout == pytest.approx(one.heldout.value(alone).item(), abs=1e-9)
        assert (row.component, row.site, row.layer, row.role) == (str(member), member.site, member.layer, "all")
        assert row.unit is member.unit or row.unit == member.unit or row.component.endswith("mlp")
    assert frame["unit"].isna().sum() == 3
    assert frame["unit"].dtype == "Int64"


def test_intervals_are_those_of_the_pairs_that_searches_see() -> None:
    one = problem(24, search_pairs=12)
    frame = one.single_effects()
    searched = one.searched
    assert searched.size == 12
    for i, member in enumerate(one.space.names[:4]):
        effects = searched.effects([member]).double().numpy()
        right = mean_interval(effects, Units.of(searched))
        assert right is not None
        assert frame.loc[i, "effect"] == pytest.approx(effects.mean(), abs=1e-9)
        assert (frame.loc[i, "ci_low"], frame.loc[i, "ci_high"]) == pytest.approx(right, abs=1e-9)
        assert abs(frame.loc[i, "effect"] - one.value([member]).item()) > 1e-6


def test_by_gradient_each_is_the_slope_where_none_is_chosen() -> None:
    """By finite differences of the value, on training and held-out pairs, with weights; at 2 forward-equivalents."""
    one = problem()
    spent = one.cost.forward_equivalents
    frame = one.single_effects(exact=False)
    assert one.cost.forward_equivalents == pytest.approx(spent + 2 + 1 / one.size)
    step = 1e-5
    for part, column in ((one, "effect"), (one.heldout, "effect_heldout")):
        assert part is not None
        for i in (0, 5, 11, 14):
            z = torch.zeros(len(one.space), dtype=torch.float64)
            z[i] = step
            slope = (part.value(z) / step).item()
            assert frame.loc[i, column] == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_by_gradient_in_keep_mode_each_is_what_keeping_a_little_restores() -> None:
    one, step = problem(mode="keep"), 1e-5
    frame = one.single_effects(exact=False)
    for i in (0, 5, 14):
        z = torch.ones(len(one.space), dtype=torch.float64)
        z[i] = 1 - step
        assert frame.loc[i, "effect"] == pytest.approx((one.value(z) / step).item(), rel=1e-3, abs=1e-5)


def test_weights_of_pairs_count_and_one_of_0_says_nothing() -> None:
    pairs = tuple(replace(pair, weight=float(i % 4)) for i, pair in enumerate(tiny.task(14).pairs))
    one = LanguageProblem(
        tiny.model("gpt2"), ct.Task(name="weighed", pairs=pairs), sites=["head_output"], holdout=0, direction="maximise"
    )
    exact, slope = one.single_effects(), one.single_effects(exact=False)
    weights = np.array([float(i % 4) for i in range(14)])
    effects = one.effects([["L1.head2"]])[0].double().numpy()
    at = one.space.names.index("L1.head2")
    assert exact.loc[at, "effect"] == pytest.approx((effects * weights).sum() / weights.sum(), abs=1e-9)
    z = torch.zeros(12, dtype=torch.float64)
    z[at] = 1e-5
    assert slope.loc[at, "effect"] == pytest.approx((one.value(z) / 1e-5).item(), rel=1e-3)


def test_the_interval_of_a_slope_is_the_bootstrap_of_each_pairs_own() -> None:
    """As many units as groups: the groups' means are the pairs' own slopes."""
    one = problem(20, holdout=0)
    frame = one.single_effects(exact=False)
    at = one.space.names.index("L1.head2")
    z = torch.zeros(len(one.space), dtype=torch.float64)
    z[at] = 1e-6
    slopes = (one.effects(z) / 1e-6).double().numpy()
    right = mean_interval(slopes, Units.of(one))
    assert right is not None
    assert (frame.loc[at, "ci_low"], frame.loc[at, "ci_high"]) == pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_a_metric_of_the_whole_set_has_values_all_the_same(exact: bool) -> None:
    task = replace(ct.tasks.demo_bias(), pairs=ct.tasks.demo_bias().pairs[::4])
    one = LanguageProblem(
        ct.load_model("shipped"), task, sites=["attention_output"], metric="stereotype_gap", holdout=0.5
    )
    frame = one.single_effects(exact=exact)
    if exact:
        assert frame["effect"].tolist() == pytest.approx(
            [one.value([name]).item() for name in one.space.names], abs=1e-6
        )
        assert frame["ci_low"].notna().all()
    else:
        slope = one.gradient(torch.zeros(len(one.space)))
        assert frame["effect"].tolist() == pytest.approx(slope.tolist(), abs=1e-6)
        assert frame["ci_low"].isna().all()
    assert frame["effect_heldout"].notna().all()


def test_few_pairs_have_no_interval_and_none_held_out_no_effect_there() -> None:
    frame = problem(6, holdout=0).single_effects()
    assert frame["effect"].notna().all()
    assert frame[["ci_low", "ci_high", "effect_heldout"]].isna().all().all()


@pytest.mark.parametrize("exact", [True, False])
def test_progress_ends_with_all_of_it(exact: bool, capsys: pytest.CaptureFixture[str]) -> None:
    one, seen = problem(), list[tuple[int, int]]()
    one.single_effects(exact, progress=lambda done, total: seen.append((done, total)))
    total = 2 * len(one.space) if exact else 2
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    one.single_effects(exact, progress=True)
    assert f"single effects: {total} of {total} in " in capsys.readouterr().err


def test_many_sets_at_once_are_those_asked_for_one_by_one() -> None:
    one = problem()
    names = [["L1.head2"], ["L0.head0", "L2.mlp"], ["L0.head3"]]
    alone = torch.stack([one.effects(some) for some in names])
    selections = [ct.Selection.parse(some) for some in names]
    members = [list(one.members) for one in selections]
    for given in (
        names,
        selections,
        members,
        [names[0], selections[1], tuple(names[2])],
        [set(some) for some in names],
    ):
        torch.testing.assert_close(one.effects(given), alone, atol=1e-9, rtol=0)
    assert one.value(names).shape == (3,)
    assert torch.equal(one.effects(one.space), one.effects(torch.ones(len(one.space))))
    assert torch.equal(one.effects(set(names[1])), one.effects(names[1]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[], ["L0.head0"]], "an empty list is no mask"),
        ([["L0.head0"], ["L9.head0"]], "L9.head0 is not in this component space"),
        ([["L0.head0"], ["head0"]], "'head0' is not a component"),
        ([["L0.head0"], 3], "masks is 3; give component names"),
        ([["L0.head0", 3]], "masks is ['L0.head0', 3]; give component names"),
        (set(), "an empty list is no mask"),
    ],
)
def test_sets_that_cannot_be_read_are_one_line(given: Any, words: str) -> None:
    with pytest.raises(ct.errors.InputError) as caught:
        problem().effects(given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
