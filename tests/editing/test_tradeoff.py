"""Sweeps, trade-offs, what an edit cost: numbers against plain scoring, brute force and closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

import cotrace as ct
from cotrace import shipped
from cotrace.donors import Vector
from cotrace.editing import Limit, Side, measure_edit, neutral, rescore, sweep, tradeoff
from cotrace.editing.scoring import Parts, ScoredTask
from cotrace.errors import CotraceError, InputError
from cotrace.prompts import PromptPair
from cotrace.results.outcomes import Outcome, pareto
from cotrace.statistics import widened
from tests.editing.models import tiny
from tests.report.reading import panels, with_mark
from tests.tiny import task

SELECTION = ct.Selection.parse(["L0.head1", "L1.head2", "L1.neuron3"])


def own(count: int = 12) -> ct.Task:
    return task(count, answer_tokens=(1, 1))


def side(seed: int = 5) -> Side:
    return Side(name="other", task=task(10, answer_tokens=(1, 1), seed=seed), metric="nll", harm="rise")


def test_a_sweep_ends_where_nothing_is_changed_and_matches_a_problem_elsewhere() -> None:
    model, pairs = tiny("llama"), own()
    found = sweep(model, pairs, SELECTION, factors=[1, 0.5, 0], holdout=0.25)
    rows = found.to_frame()
    assert list(rows["factor"]) == [0, 0.5, 1]
    assert rows["strength"].iloc[2] == pytest.approx(0, abs=1e-6)
    for factor, strength, heldout in zip(rows["factor"], rows["strength"], rows["strength_heldout"], strict=True):
        problem = ct.LanguageProblem(
            model, pairs, sites=["head_output", "mlp_neuron"], donors=f"scale={factor}", holdout=0.25,
            positions="prompt+answer", direction="maximise")  # fmt: skip
        sign = 1 if found.aim == "maximise" else -1
        assert strength == pytest.approx(sign * problem.value(SELECTION).item(), abs=1e-5)
        assert problem.heldout is not None
        assert heldout == pytest.approx(sign * problem.heldout.value(SELECTION).item(), abs=1e-5)


@pytest.mark.parametrize("metric", ["log_odds", "probability"])
def test_no_aim_is_guessed_from_rounding_or_chance(metric: str) -> None:
    model, some = tiny("llama"), own().pairs
    with pytest.raises(InputError, match=r"k = 3, scale=1\).*within rounding \(.*\): give aim='maximise'"):
        sweep(model, own(), SELECTION, factors=[1], metric=metric)
    # What one pair gains its twin, whose answers are the other way round, loses: the mean log-odds stay.
    both = [*some, *(replace(p, id=f"{p.id}'", answers=p.answers[::-1]) for p in some)]
    if metric == "log_odds":
        with pytest.raises(InputError, match=r"95 % interval .* of that change covers 0: give aim="):
            sweep(model, replace(own(), pairs=tuple(both)), SELECTION, factors=[0, 0.5], holdout=0)
    found = sweep(model, own(), SELECTION, factors=[1], metric=metric, aim="minimise")
    assert found.points[0].strength == pytest.approx(0, abs=1e-6)
    # The same way for every pair: the sign of what plain scoring finds.
    part = ScoredTask(model, own())
    before = part.scores()
    with ct.apply(model, SELECTION, "zero"):
        change = (part.scores() - before).diff(dim=1)[:, 0]
    up = [pair for pair, moved in zip(some, change.tolist(), strict=True) if moved > 0]
    for pairs, aim in ((up, "maximise"), ([replace(p, answers=p.answers[::-1]) for p in up], "minimise")):
        assert sweep(model, replace(own(), pairs=tuple(pairs)), SELECTION, factors=[0], holdout=0).aim == aim


def test_rescoring_shows_the_effect_found_and_under_each_donor() -> None:
    model, pairs = tiny("llama"), own()
    problem = ct.LanguageProblem(model, pairs, holdout=0.25, direction="maximise")
    found = ct.search.Greedy(max_size=2)(problem)
    zero = ct.LanguageProblem(
        model, pairs, holdout=0.25, donors="zero", positions="prompt+answer", direction="maximise"
    )
    rows = rescore(model, pairs, found, ["zero"], holdout=0.25).to_frame()
    assert list(rows["donor"]) == ["as searched", "zero"] * 2
    assert list(rows["effect"][::2]) == [selection.effect for selection in found]
    expected = [zero.value(selection).item() for selection in found]
    np.testing.assert_allclose(rows["effect"][1::2], expected, atol=1e-5)


def test_the_pareto_set_against_brute_force() -> None:
    generator = np.random.default_rng(0)
    strength = generator.integers(0, 5, 40) / 4.0
    harms = generator.integers(0, 5, (40, 2)) / 4.0
    expected = [
        not any(
            strength[j] >= strength[i] and (harms[j] <= harms[i]).all()
            and (strength[j] > strength[i] or (harms[j] < harms[i]).any())
            for j in range(40)
        )
        for i in range(40)
    ]  # fmt: skip
    assert pareto(list(strength), [tuple(row) for row in harms]) == expected


def test_the_choice_is_the_strongest_that_keeps_the_limit_on_both_halves() -> None:
    model, pairs, watched = tiny("llama"), own(), side()
    single = [ct.Selection.parse([name]) for name in ("L0.head1", "L1.head2")]
    free = tradeoff(model, pairs, single, ["scale=0", "scale=0.5"], sides=[watched])
    most = float(np.median([max(0.001, point.harms[0]) for point in free.points]))
    bound = tradeoff(
        model, pairs, single, ["scale=0", "scale=0.5"], aim=free.aim, sides=[watched], limits=[Limit("other", most)]
    )
    halves = Parts.of(watched.task, 0.5, 0)
    for point in bound.points:
        with ct.apply(model, ct.Selection.parse(point.components), f"scale={point.factor}"):
            after = _losses(model, watched, halves)
        before = _losses(model, watched, halves)
        rises = [(b - a) / a for a, b in zip(before, after, strict=True)]
        assert point.harms[0] == pytest.approx(rises[1], abs=1e-5)
        assert point.allowed == (max(rises) <= most)
    allowed = [point for point in bound.points if point.allowed and point.strength > 0]
    assert (bound.best is None) == (not allowed)
    assert not allowed or (bound.best is not None and bound.best.strength == max(p.strength for p in allowed))
    assert {(p.k, p.donor) for p in free.points} <= {(p.k, p.donor) for p in bound.points}


def _losses(model: ct.models.LanguageModel, watched: Side, halves: Parts) -> list[float]:
    """Mean -log p(target) of each half."""
    found = []
    for ids in (halves.training, halves.heldout):
        part = ScoredTask(model, watched.task, ids)
        targets = [encoded.pair.target for encoded in part.pairs]
        found.append(-part.scores()[range(len(targets)), targets].mean().item())
    return found


def test_what_an_edit_cost_before_and_after() -> None:
    model, pairs = tiny("llama"), own()
    found = {one.name: one for one in measure_edit(model, pairs, SELECTION, "scale=0.2", sides=[side()])}
    assert next(iter(found)) == "log_odds on random words", "the traced metric first"
    assert {"accuracy on random words", "probability on random words", "nll on random words"} <= found.keys()
    part = ScoredTask(model, pairs)
    targets = [encoded.pair.target for encoded in part.pairs]
    rows = range(len(targets))
    before = part.scores()[rows, targets].exp()
    with ct.apply(model, SELECTION, "scale=0.2"):
        after = part.scores()[rows, targets].exp()
    one = found["probability on random words"]
    assert (one.before, one.after) == pytest.approx((before.mean().item(), after.mean().item()), abs=1e-6)
    assert one.change_interval is not None
    low, high = one.change_interval
    assert low <= one.change <= high
    changes = (after - before).double().numpy()
    wide = 2 * stats.t.ppf(0.975, len(changes) - 1) * stats.sem(changes)
    assert high - low == pytest.approx(wide, rel=0.2), "Student's, by which BCa is widened at 12 pairs"


def test_the_neutral_text_is_the_mean_loss_of_its_lines() -> None:
    model = ct.load_model(shipped.MODEL)
    some = neutral(most=5)
    one = measure_edit(model, ct.tasks.demo_agreement(), ct.Selection.parse(["L1.head5"]), sides=[some])[-1]
    losses = []
    for pair in some.task.pairs:
        tokens = model.tokenizer(pair.base + pair.answers[0], return_tensors="pt")["input_ids"]
        losses.append(model.module(input_ids=tokens, labels=tokens).loss.item())
    assert one.before == pytest.approx(np.mean(losses), abs=1e-5)


def test_the_figure_shows_every_edit_and_joins_the_pareto_set() -> None:
    found = tradeoff(tiny("llama"), own(), [SELECTION], ["zero", "scale=0.5"], sides=[side(), side(6)])
    figure = ct.report.tradeoff(found)
    assert len(panels(figure)) == 2
    for panel in range(2):
        (joined,) = with_mark(figure, panel, "line")
        assert len(joined) == len(found)
        assert sum(row["kind"] != "beaten" for row in joined) == len(found.pareto)
    with pytest.raises(InputError, match="no side effect"):
        ct.report.tradeoff(sweep(tiny("llama"), own(), SELECTION, factors=[0]))


def test_harm_by_kind() -> None:
    one = Outcome(task="t", metric="m", pairs=3, before=2.0, after=1.5)
    assert [one.harm(kind) for kind in ("rise", "fall", "change")] == [-0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    ("words", "expected"),
    [("neutral<=1%", ("neutral", 0.01)), (" demo_agreement <= 0.02", ("demo_agreement", 0.02))],
)
def test_a_limit_is_read_as_a_share(words: str, expected: tuple[str, float]) -> None:
    limit = Limit.parse(words)
    assert (limit.name, limit.most) == pytest.approx(expected)


@pytest.mark.parametrize("words", ["neutral<1%", "neutral", "<=1%", "neutral<=-1%", "neutral<=1 percent"])
def test_a_limit_of_another_form_is_refused(words: str) -> None:
    with pytest.raises(InputError, match="write NAME<=SHARE"):
        Limit.parse(words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limits": [Limit("nothing", 0.1)]}, "nothing"),
        ({"donors": ["scale=3"]}, "outside -1 .. 2"),
        ({"donors": ["counterfactual"]}, "does not stand alone"),
        ({"selections": []}, "at least one selection"),
        ({"metric": "stereotype_gap"}, "group"),
    ],
)
def test_wrong_input_is_refused(change: dict[str, object], words: str) -> None:
    given = {"selections": [SELECTION], "donors": ["zero"], "sides": [side()]} | change
    selections, donors = given.pop("selections"), given.pop("donors")
    with pytest.raises(CotraceError, match=words):
        tradeoff(tiny("llama"), own(), selections, donors, **given)


def test_parts_are_the_split_of_a_problem() -> None:
    pairs = own()
    for holdout, seed in product((0.25, 0.5), (0, 3)):
        problem = ct.LanguageProblem(tiny("llama"), pairs, holdout=holdout, seed=seed, direction="maximise")
        parts = Parts.of(pairs, holdout, seed)
        assert problem.heldout is not None
        assert parts.training == set(problem.training.ids)
        assert parts.heldout == set(problem.heldout.ids)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_edits_are_judged_on_the_search_s_own_parts() -> None:
    """Five pairs are refused by the swap, a field keeps pairs together, some are sealed: all that holds for edits."""
    model, whole = tiny("llama"), own(30)
    pairs = [replace(pair, meta={"theme": i % 10}) for i, pair in enumerate(whole.pairs)]
    uneven = [replace(p, counterfactual=f"{p.counterfactual} w1") if i < 5 else p for i, p in enumerate(pairs)]
    options = {"holdout": 0.3, "audit": 0.2, "split_by": "theme", "seed": 3}
    given = replace(whole, pairs=tuple(uneven))
    problem = ct.LanguageProblem(model, given, **{"direction": "maximise", **options})
    assert len(problem.refused) == 5
    kept = replace(whole, pairs=tuple(pairs[5:]))
    zero = ct.LanguageProblem(
        model,
        kept,
        sites=["head_output", "mlp_neuron"],
        donors="zero",
        positions="prompt+answer",
        **{"direction": "maximise", **options},
    )
    assert problem.heldout is not None
    assert zero.heldout is not None
    assert zero.heldout.ids == problem.heldout.ids
    seen, unseen = zero.value(SELECTION).item(), zero.heldout.value(SELECTION).item()
    for parts in (problem, Parts.of_problem(problem)):
        rows = rescore(model, given, SELECTION, ["zero"], parts=parts).to_frame()
        assert rows["effect"][1] == pytest.approx(seen, abs=1e-5)
        assert rows["effect_heldout"][1] == pytest.approx(unseen, abs=1e-5)
        swept = sweep(model, given, SELECTION, factors=[0], parts=parts, aim="maximise").points[0]
        assert (swept.strength, swept.strength_heldout) == pytest.approx((seen, unseen), abs=1e-5)
        assert swept.outcome.pairs == problem.heldout.size
    alone = rescore(model, given, SELECTION, ["zero"]).to_frame()
    assert alone["effect_heldout"][1] != pytest.approx(unseen, abs=1e-3)


def test_pairs_of_one_group_are_resampled_together() -> None:
    """Four copies of ten pairs, each four one group, tell as much as the ten: not as much as forty."""
    model, ten = tiny("llama"), own(10)
    copies = [replace(pair, id=f"{pair.id}-{copy}") for pair in ten.pairs for copy in range(4)]
    grouped = [replace(pair, split_group=pair.id.split("-")[0]) for pair in copies]
    single, together = (measure_edit(model, replace(ten, pairs=tuple(p)), SELECTION) for p in (ten.pairs, grouped))
    apart = measure_edit(model, replace(ten, pairs=tuple(copies)), SELECTION)
    named = measure_edit(
        model, replace(ten, pairs=tuple(copies)), SELECTION, clusters={p.id: str(p.split_group) for p in grouped}
    )
    for one, many, loose, told in zip(single, together, apart, named, strict=True):
        assert many.change_interval == pytest.approx(one.change_interval, abs=1e-5)
        assert told.change_interval == pytest.approx(one.change_interval, abs=1e-5)
        assert loose.change_interval is not None
        assert many.change_interval is not None
        wide, narrow = np.ptp(many.change_interval), np.ptp(loose.change_interval)
        assert narrow < 0.75 * wide or wide == 0


@torch.no_grad()
def mean_input(model: ct.models.LanguageModel, pairs: Sequence[PromptPair], head: int) -> torch.Tensor:
    """Mean over all tokens of these base prompts of what the head gives to layer 0's output projection."""
    kept: list[torch.Tensor] = []
    place = model.module.transformer.h[0].attn.c_proj
    handle = place.register_forward_pre_hook(lambda module, args: kept.append(args[0].detach()[0]))
    for pair in pairs:
        model.module(**model.require_tokenizer()(pair.base, return_tensors="pt"))
    handle.remove()
    width = kept[0].shape[-1] // model.module.config.n_head
    return torch.cat(kept)[:, head * width : (head + 1) * width].mean(0)


def test_the_mean_donor_of_a_measured_edit_is_that_of_the_search() -> None:
    model, pairs, one = tiny("gpt2"), task(20), ct.Selection.parse(["L0.head1"])
    problem = ct.LanguageProblem(model, pairs, sites=["head_output"], donors="mean=task", direction="maximise", seed=4)
    assert problem.heldout is not None
    held = set(problem.heldout.ids)
    seen = [pair for pair in pairs.pairs if pair.id not in held]
    value = mean_input(model, seen, 1)
    donor = Vector(values={"L0.head1": value})
    wanted = measure_edit(model, pairs, one, donor, ids=held)[0]
    whole = measure_edit(model, pairs, one, "mean=task", ids=held, reference=pairs)[0]
    for found in (
        measure_edit(model, pairs, one, "mean=task", ids=held),
        measure_edit(model, pairs, one, "mean=task", parts=problem),
    ):
        assert found[0].pairs == len(held)
        assert found[0].after == pytest.approx(wanted.after, abs=1e-6)
        assert found[0].after != pytest.approx(whole.after, abs=1e-6), "the mean over the held-out pairs too is another"


def test_a_group_with_few_positives_is_resampled_within_its_labels() -> None:
    """Every resample holds as many positives of each group as the data: BCa of two samples, by scipy."""
    model, plain = tiny("llama"), own(30)
    pairs = [
        replace(pair, group="ab"[i < 6], favourable=0, label=int(i >= 3 if i < 6 else i % 2))
        for i, pair in enumerate(plain.pairs)
    ]
    whole = replace(plain, pairs=tuple(pairs), metric="equal_opportunity_gap")
    found = measure_edit(model, whole, SELECTION, "scale=-1")[1]
    assert found.metric == "equal_opportunity_gap (soft)"
    part = ScoredTask(model, whole)
    before = part.scores().softmax(-1)[:, 0].double().numpy()
    with ct.apply(model, SELECTION, "scale=-1"):
        after = part.scores().softmax(-1)[:, 0].double().numpy()
    positives = [np.array([i for i, p in enumerate(pairs) if p.group == g and p.label == 0]) for g in "ab"]

    def change(one: np.ndarray, two: np.ndarray, axis: int = -1) -> np.ndarray:
        gaps = [np.abs(table[one].mean(axis) - table[two].mean(axis)) for table in (before, after)]
        return np.asarray(gaps[1] - gaps[0])

    wanted = stats.bootstrap(
        tuple(positives),
        change,
        vectorized=True,
        n_resamples=20_000,
        confidence_level=widened(30, 4),
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert found.change == pytest.approx(float(change(*positives)), abs=1e-6)
    width = wanted.high - wanted.low
    assert found.change_interval == pytest.approx((wanted.low, wanted.high), abs=0.1 * width)
