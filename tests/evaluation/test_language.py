"""Evaluations of a tiny language model: parts of the pairs, groups, side effects, metrics of the whole set."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import cotrace as ct
from cotrace.errors import InputError
from cotrace.evaluation import predict
from cotrace.problem.subproblem import Subproblem
from cotrace.prompts.task import split_parts
from cotrace.statistics import widened
from tests.tiny import model, task


@pytest.fixture(scope="module")
def grouped() -> ct.Task:
    """Sixty pairs in twenty groups, with weights."""
    whole = task(60)
    pairs = tuple(
        replace(pair, split_group=f"g{i % 20}", weight=1.0 + i % 3, meta={"half": i % 2 + 1})
        for i, pair in enumerate(whole.pairs)
    )
    return replace(whole, pairs=pairs)


@pytest.fixture(scope="module")
def problem(grouped: ct.Task) -> ct.LanguageProblem:
    return ct.LanguageProblem(model("gpt2"), grouped, holdout=0.4, audit=0.2, direction="maximise")


def test_three_parts_share_no_group_and_the_audit_moves_no_heldout_pair(grouped: ct.Task) -> None:
    plain, sealed = split_parts(grouped.pairs, 0.4, 0), split_parts(grouped.pairs, 0.4, 0, audit=0.2)
    assert plain.heldout == sealed.heldout
    parts = [{grouped.pairs[i].split_group for i in part} for part in sealed]
    assert sum(map(len, parts)) == 20
    assert sorted(i for part in sealed for i in part) == list(range(60))
    assert len(sealed.audit) == 12


def test_split_by_a_field_of_meta(grouped: ct.Task) -> None:
    parts = split_parts(grouped.pairs, 0.3, 0, by="half")
    assert {grouped.pairs[i].meta["half"] for i in parts.heldout} == {grouped.pairs[parts.heldout[0]].meta["half"]}
    with pytest.raises(InputError, match="nowhere"):
        split_parts(grouped.pairs, 0.3, 0, by="nowhere")
    some = (*grouped.pairs[:-1], replace(grouped.pairs[-1], meta={}))
    with pytest.raises(InputError, match="pair p59 has no such field"):
        split_parts(some, 0.3, 0, by="half")
    with pytest.raises(InputError, match=r"audit=0\.9"):
        split_parts(grouped.pairs, 0.3, 0, audit=0.9)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_intervals_resample_groups_and_weigh_pairs(problem: ct.LanguageProblem) -> None:
    found = ct.evaluate(problem, ct.Selection.parse(["0.1", "1.2"]))
    assert found.units == "24 pairs in 8 groups"
    assert found.chosen.interval is None
    assert any("at least 10 independent pairs" in note for note in found.notes)
    assert problem.heldout is not None
    own = float(problem.heldout.value(ct.Selection.parse(["0.1", "1.2"])))
    assert found.chosen.effect == pytest.approx(own, rel=1e-6)


def test_a_part_is_the_problem_on_those_pairs(problem: ct.LanguageProblem) -> None:
    """Value and gradient of a part, against finite differences of the weighted mean of its effects."""
    part, z = Subproblem(problem, [0, 3, 4, 9]), torch.full((12,), 0.4, dtype=torch.float64)
    effects, weights = problem.effects(z)[[0, 3, 4, 9]], problem.weights[[0, 3, 4, 9]]
    assert part.value(z).item() == pytest.approx(((effects * weights).sum() / weights.sum()).item())
    step = torch.zeros(12, dtype=torch.float64)
    step[5] = 1e-5
    slope = (part.value(z + step) - part.value(z - step)).item() / 2e-5
    assert part.gradient(z)[5].item() == pytest.approx(slope, rel=1e-4)


@pytest.fixture(scope="module")
def gaps() -> ct.LanguageProblem:
    pairs = tuple(replace(pair, group="ab"[i % 2], favourable=0, label=i % 2) for i, pair in enumerate(task(40).pairs))
    whole = replace(task(40), pairs=pairs, metric="demographic_parity_gap")
    return ct.LanguageProblem(model("gpt2"), whole, holdout=0.4, direction="maximise")


def test_a_gap_between_groups_is_recomputed_on_the_drawn_pairs(gaps: ct.LanguageProblem) -> None:
    """A pair that counts twice is the pair given twice, one that counts 0 is not there: by the metric's definition."""
    held = gaps.heldout
    part = held.part
    z = torch.zeros(len(gaps.space))
    z[[1, 6]] = 1
    count = np.random.default_rng(0).integers(0, 3, part.size)
    found = held.redrawn(z[None], count[None]).item()
    scores = held.scores(z).exp()
    base = part.scorer.base.exp()
    groups = np.array([int(g) for g in part.answers.group])

    def parity_gap(table: torch.Tensor) -> float:
        share = (table[:, 0] / table.sum(-1)).double().numpy()
        means = [np.repeat(share[groups == g], count[groups == g]).mean() for g in (0, 1)]
        return abs(means[0] - means[1])

    assert found == pytest.approx(parity_gap(scores) - parity_gap(base), abs=1e-6)
    assert held.redrawn(z[None], np.ones((1, part.size))).item() == pytest.approx(held.value(z).item(), abs=1e-7)


def test_a_metric_of_the_whole_set_has_intervals_by_drawing_it_again(gaps: ct.LanguageProblem) -> None:
    selection = ct.Selection.parse(["0.1", "1.2"])
    before = gaps.cost.forward_equivalents + gaps.heldout.cost.forward_equivalents
    found = ct.evaluate(gaps, selection)
    spent = gaps.cost.forward_equivalents + gaps.heldout.cost.forward_equivalents - before
    assert spent <= predict(gaps, selection).forward_equivalents
    assert found.chosen.interval is not None
    assert found.chosen.interval[0] <= found.chosen.effect <= found.chosen.interval[1]
    assert found.chosen.interval[1] > found.chosen.interval[0]
    assert found.chosen.over_single is not None
    assert found.full_interval is not None
    assert found.chosen.median is None
    assert any("one number for the whole set" in note for note in found.notes)


def rare(favourable_in_b: int, groups: str = "ab") -> ct.Task:
    """40 pairs, of which group b holds 5, so many of them with the favourable label."""
    pairs = [
        replace(pair, group=groups[i < 5], favourable=0, label=int(i >= favourable_in_b if i < 5 else i % 2))
        for i, pair in enumerate(task(40).pairs)
    ]
    return replace(task(40), pairs=tuple(pairs), metric="equal_opportunity_gap")


def test_a_rare_group_has_intervals_too_and_nothing_need_be_held_out() -> None:
    """Two positives of five: drawn at will, one resample in eight has none of them."""
    problem = ct.LanguageProblem(model("gpt2"), rare(2), holdout=0)
    chosen = ct.Selection.parse(["0.1", "1.2"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ct.evaluate(problem, chosen)
    assert found.judged_on == "training"
    assert found.chosen.interval is not None
    assert np.ptp(found.chosen.interval) > 0
    assert not any("have no value" in note for note in found.notes)
    by_hand = _gap_interval(problem, chosen)
    assert found.chosen.interval == pytest.approx(by_hand, abs=0.1 * np.ptp(by_hand))
    assert problem.full_swap.interval == pytest.approx(found.full_interval, abs=1e-6)


def _gap_interval(problem: ct.LanguageProblem, chosen: ct.Selection) -> np.ndarray:
    """BCa over positives of each group, in plain numpy: a difference of means of two samples of base and swapped."""
    pairs = rare(2).pairs
    tables = [problem.scores(mask).softmax(-1)[:, 0].double().numpy() for mask in (torch.zeros(12), chosen)]
    own = [[i for i, pair in enumerate(pairs) if pair.group == g and pair.label == 0] for g in "ab"]

    def change(one: np.ndarray, two: np.ndarray, axis: int = -1) -> np.ndarray:
        gaps = [np.abs(table[one].mean(axis) - table[two].mean(axis)) for table in tables]
        return np.asarray(gaps[1] - gaps[0])

    level = widened(40, 4)
    found = stats.bootstrap(
        tuple(np.array(members) for members in own),
        change,
        vectorized=True,
        n_resamples=20_000,
        confidence_level=level,
        rng=np.random.default_rng(3),
    ).confidence_interval
    return np.array([found.low, found.high])


def test_where_one_pair_alone_gives_a_rate_there_is_no_interval_and_it_is_said() -> None:
    problem = ct.LanguageProblem(model("gpt2"), rare(1), holdout=0)
    assert problem.full_swap.interval is None
    found = ct.evaluate(problem, ct.Selection.parse(["0.1", "1.2"]))
    assert found.chosen.interval is None
    said = next(note for note in found.notes if "have no value" in note)
    count = int(said.split()[2])
    assert count == pytest.approx(2_000 * (1 - 1 / 20) ** 20, rel=0.1)


def test_trace_fills_in_intervals_and_p_values() -> None:
    frontier = ct.trace(model("gpt2"), task(60), search="topk", max_size=3, direction="maximise", holdout=0.5)
    for selection in frontier:
        assert selection.interval is not None
        assert selection.effect_heldout is not None
        assert selection.interval[0] <= selection.effect_heldout <= selection.interval[1]
        assert selection.p_value is not None
    plain = ct.trace(
        model("gpt2"), task(60), search="topk", max_size=3, direction="maximise", holdout=0.5, evaluation="none"
    )
    assert plain.at(1).interval is None
    assert plain.at(1).effect_heldout == frontier.at(1).effect_heldout


def test_trace_by_a_search_that_has_no_sizes() -> None:
    found = ct.trace(
        model("gpt2"),
        task(20),
        search="pgbct",
        search_options={"path": 3, "epochs": 3},
        direction="maximise",
        evaluation="none",
    )
    assert found.search == "pgbct"
    with pytest.raises(InputError, match="unknown option of search pgbct 'max_size'"):
        ct.trace(model("gpt2"), task(20), search="pgbct", max_size=3, direction="maximise")


def test_side_effects_of_a_second_task(problem: ct.LanguageProblem) -> None:
    other = replace(task(12, seed=5), name="other")
    chosen = ct.Selection.parse(["0.1", "1.2"])
    with pytest.warns(UserWarning, match="at least 10"):
        found = ct.evaluate(problem, chosen, side=[other]).side_effects[0]
    wanted = ct.LanguageProblem(model("gpt2"), other, holdout=0, direction="maximise").effects(chosen).numpy()
    assert found.change == pytest.approx(wanted.mean(), rel=1e-5)
    assert found.interval is not None
    assert np.ptp(found.interval) > 0


@pytest.mark.parametrize("how", ["whole", "named", "in a sum"])
def test_a_published_circuit_is_refused_on_another_model(problem: ct.LanguageProblem, how: str) -> None:
    against: Any = {"heads": ct.known.IOI} if how == "named" else ct.known.IOI
    asked: Any = ct.WeightedSum([(0.5, problem), (0.5, problem)]) if how == "in a sum" else problem
    with pytest.raises(InputError, match=r"circuit ioi is of gpt2 .*n_layer 12.* is another model"):
        ct.evaluate(asked, ct.Selection.parse(["0.1"]), against=against)


def test_a_published_circuit_is_taken_on_its_own_model() -> None:
    from transformers import GPT2Config, LlamaConfig

    ct.known.IOI.check("gpt2", GPT2Config())
    for config in (GPT2Config(n_layer=24, n_head=16, n_embd=1024), GPT2Config(n_layer=6), LlamaConfig()):
        with pytest.raises(InputError, match="is another model"):
            ct.known.IOI.check("other", config)


def test_published_circuits() -> None:
    assert len(ct.known.IOI.members) == 26
    assert ct.known.IOI.role("name mover").components == ["L9.head6", "L9.head9", "L10.head0"]
    assert ct.known.GREATER_THAN.selection.k == 3 + 4 + 6 + 4
    assert set(ct.known.INDUCTION.members) <= set(ct.known.IOI.members)
    for name in ct.known.names():
        assert "arXiv" in ct.known.circuit(name).source
    with pytest.raises(InputError, match="did you mean 'ioi'"):
        ct.known.circuit("ioii")
