"""The direction that is taken where none is given: never from rounding or chance, and a gap is made smaller."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import cotrace as ct
from cotrace.errors import DegenerateError, InputError
from cotrace.metrics import GROUPS
from cotrace.problem import LanguageProblem
from cotrace.problem.full_swap import NoDirection
from cotrace.prompts import Task
from cotrace.report.page._run_summary import headlines
from cotrace.report.page.inputs import ReportInputs
from cotrace.runs.config import RunConfig
from cotrace.runs.prepare import pose
from cotrace.search import Greedy
from cotrace.statistics import Units, mean_interval
from tests import shapes, tiny

N = 12


def symmetric(count: int = 12) -> Task:
    """The natural audit: the counterfactual swaps the group, so every pair is there both ways round."""
    plain, pairs = tiny.task(count, answer_tokens=(1, 1)), []
    for i, pair in enumerate(plain.pairs):
        one = replace(pair, group="a", favourable=0, label=i % 2, target=0)
        pairs += [one, replace(one, id=f"{pair.id}'", base=pair.counterfactual, counterfactual=pair.base, group="b")]
    return replace(plain, pairs=tuple(pairs))


def problem(task: Task, metric: Any = "log_odds", **options: Any) -> LanguageProblem:
    kind = options.pop("dtype", torch.float64)
    sites = ["residual"] if options.pop("whole", False) else None
    return LanguageProblem(tiny.model("gpt2", kind), task, metric=metric, sites=sites, **{"holdout": 0, **options})


def share_of_a(scores: torch.Tensor, answers: Any) -> torch.Tensor:
    return torch.softmax(scores, -1)[..., 0]


@pytest.mark.parametrize("metric", GROUPS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_gap_is_made_smaller_and_no_share_of_nothing_is_told(metric: str, kind: torch.dtype) -> None:
    # The whole residual stream swapped is the donor run, so the groups change places and the gap stays as it is.
    p = problem(symmetric(), metric, whole=True, dtype=kind)
    assert p.direction == "minimise"
    assert abs(p.full_swap.mean) <= p.full_swap.rounding or metric == "stereotype_gap"
    told = problem(symmetric(), metric, whole=True, dtype=kind, direction="maximise")
    assert told.direction == "maximise"
    found = ct.evaluate(p, frontier := Greedy(max_size=2)(p))
    assert frontier.full_is_clear == p.full_swap.is_clear
    if not p.full_swap.is_clear:
        assert frontier.share(frontier.at(1)) is None
        words = " ".join(found.verdict) + " ".join(one.words for one in headlines(ReportInputs((frontier,), (found,))))
        assert "of everything's" not in words
        assert "of what swapping everything does" not in words
        assert "covers 0" in p.summary or "within rounding" in p.summary


@pytest.mark.parametrize(
    "metric",
    ["log_odds", "probability", "logit_diff", share_of_a],
    ids=lambda metric: getattr(metric, "__name__", metric),
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_full_swap_that_changes_nothing_gives_no_direction(metric: Any, kind: torch.dtype) -> None:
    for count in (3, 12):  # with and without an interval
        p = problem(symmetric(count), metric, whole=True, dtype=kind)
        with pytest.raises(NoDirection, match=r"shows no direction to search in.*direction='maximise'") as caught:
            _ = p.direction
        assert "\n" not in str(caught.value)
        assert p.summary.startswith("No effect is shown: ")
        assert "A search for k of 3 residual in 3 layers needs a direction: give direction='maximise'" in p.summary
        assert p.full_swap.why in html.unescape(p._repr_html_())
        assert repr(p).startswith("LanguageProblem(")
    assert problem(symmetric(), metric, whole=True, dtype=kind, direction="minimise").direction == "minimise"


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_an_interval_over_0_gives_none_and_one_beside_0_gives_its_sign(seed: int) -> None:
    task = tiny.task(20, answer_tokens=(1, 1), seed=seed)
    told = problem(task, direction="maximise")
    effects = told.effects(torch.ones(N)).double().numpy()
    low, high = mean_interval(effects, Units.made(20, np.ones(20), told.clusters)) or (0.0, 0.0)
    if low <= 0 <= high:
        with pytest.raises(NoDirection, match="covers 0: give direction="):
            _ = problem(task).direction
        said = f"No effect is shown: the 95 % interval {low:+.3g} .. {high:+.3g} of the full swap's effect covers 0; "
        assert problem(task).summary.startswith(said)
    else:
        assert problem(task).direction == ("maximise" if low > 0 else "minimise")


def log_odds(text: str, answers: tuple[str, ...]) -> float:
    """Of the second answer against the first (DESIGN section 1), by the bare model."""
    model = tiny.model("gpt2")
    ids = [model.require_tokenizer()(words)["input_ids"] for words in (text, *answers)]
    with torch.no_grad():
        last = model.module(torch.tensor([ids[0]])).logits[0, -1]
    return float(last[ids[2][0]] - last[ids[1][0]])


def test_effects_need_no_direction() -> None:
    """The residual stream swapped everywhere is the run on the counterfactual, which the bare model gives."""
    task = symmetric()
    p = problem(task, whole=True, holdout=0.5)
    pairs = {pair.id: pair for pair in task.pairs}
    ones = torch.ones(len(p.space))
    assert p.heldout is not None
    for part, ids in ((p, p.training.ids), (p.heldout, p.heldout.ids)):
        plain = [
            log_odds(str(pair.counterfactual), pair.answers) - log_odds(pair.base, pair.answers)
            for pair in map(pairs.__getitem__, ids)
        ]
        assert part.effects(ones).tolist() == pytest.approx(plain, abs=1e-9)
        assert part.value(ones).item() == pytest.approx(np.mean(plain), abs=1e-9)
        assert part.scores(ones).shape == (len(ids), 2)
        z, step = torch.full((3,), 0.5, dtype=torch.float64), 1e-5 * torch.eye(3, dtype=torch.float64)
        slope = [((part.value(z + own) - part.value(z - own)) / 2e-5).item() for own in step]
        assert part.gradient(z).tolist() == pytest.approx(slope, abs=1e-6)
        with pytest.raises(NoDirection):
            _ = part.direction
    rows = {row.value: row.effect for row in p.breakdown(ones).rows if row.value in "ab"}
    assert rows.keys() == {"a", "b"}
    kept = problem(tiny.task(20, answer_tokens=(1, 1)), mode="keep")  # faithfulness has its own
    assert kept.direction == "maximise"
    assert kept.effects(torch.zeros(N)).mean().item() == pytest.approx(1)


def test_a_side_problem_is_measured_and_bounded_whatever_its_direction() -> None:
    """Without the tests' checks of types, which read every property of a protocol."""
    with shapes.unchecked():
        unclear = problem(symmetric(), whole=True)
        decided = problem(tiny.task(12, answer_tokens=(1, 1)), whole=True, direction="minimise")
        found = Greedy(max_size=2)(ct.Constrained(decided, [ct.Constraint(unclear, 0.5)]))
        judged = ct.evaluate(decided, found, side=[unclear])
        want = unclear.value(found.at(judged.k)).item()
        assert abs(judged.side_effects[0].change - want) < 1e-9
        assert abs(want) <= 0.5
        for needs in (
            Greedy(),
            lambda p: ct.evaluate(p, found),
            lambda p: ct.WeightedSum([(1, p), (1, decided)]),
            lambda p: ct.Constrained(p, [ct.Constraint(decided, 1)]),
        ):
            with pytest.raises(NoDirection) as caught:
                needs(unclear)
            assert str(caught.value).count("direction=") == 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_pairs_still_give_the_clear_sign_of_their_mean(count: int) -> None:
    task = tiny.task(count, answer_tokens=(1, 1))
    p = problem(task)
    mean = p.effects(torch.ones(N)).mean().item()
    assert abs(mean) > 1e-6
    assert p.direction == ("maximise" if mean > 0 else "minimise")


def test_rounding_is_that_of_the_models_type() -> None:
    found = {}
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        p = problem(tiny.task(6, answer_tokens=(1, 1)), dtype=kind, direction="maximise")
        scores = p.scores(torch.zeros(N)).double()
        # log o of two answers: the sum of two independent errors of at most 16 units in the last place, over 6 pairs.
        most = 16 * torch.finfo(kind).eps * scores.abs().clamp(min=1).sum(-1).mean().item()
        assert 0.05 * most < p.full_swap.rounding <= most
        found[kind] = p.full_swap.rounding
    assert found[torch.float64] < 1e-12
    assert found[torch.float32] < 1e-4
    assert found[torch.bfloat16] > 1e-2


def test_keep_mode_is_faithfulness_and_refuses_a_swing_within_rounding() -> None:
    with pytest.raises(DegenerateError, match="rounding alone may do"):
        problem(symmetric(), whole=True, mode="keep")
    with pytest.raises(DegenerateError, match="rounding alone may do"):
        problem(symmetric(), "demographic_parity_gap", whole=True, mode="keep", dtype=torch.float32)
    assert problem(tiny.task(5, answer_tokens=(1, 1)), mode="keep").direction == "maximise"


def test_every_door_refuses_and_targets_have_their_own_direction() -> None:
    model, task = tiny.model("gpt2"), symmetric()
    with pytest.raises(InputError, match="direction='maximise'"):
        ct.trace(model, task, sites=["residual"], holdout=0)
    config = RunConfig(model="x", task="y", sites=("residual",), holdout=0)
    with pytest.raises(InputError, match=r"give --direction maximise or --direction minimise$"):
        pose(config, model, task)
    assert problem(task, direction="target=0.2", metric="probability", whole=True).direction == "maximise"
    decided = problem(task, whole=True, direction="maximise")
    side = ct.side_problem(decided, task, holdout=0)  # a change is measured there: nothing is searched
    assert side.value(torch.ones(len(side.space))).abs().item() < 1e-9
    total = ct.WeightedSum(
        [(1, decided), (1, problem(tiny.task(12, answer_tokens=(1, 1)), direction="maximise", whole=True))]
    )
    assert not total.full_is_clear
    assert total.summary.startswith("No effect is shown of log_odds on random words; weighted sum ")
    assert not ct.Constrained(decided, [ct.Constraint(decided, 0.1)]).full_is_clear
