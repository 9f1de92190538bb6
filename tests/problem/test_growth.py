"""What keeps cost in proportion: places merged, logits batch by batch, means as running sums, whatever the budget."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cotrace.components import ComponentSpace, Site
from cotrace.donors import Mean, Noise, record
from cotrace.donors.recorded import mean_values
from cotrace.errors import InputError
from cotrace.interventions.storage import NoRoom
from cotrace.problem import LanguageProblem, scored, scorer
from cotrace.problem import scored as pairs
from cotrace.problem.scored import PairProblem
from cotrace.problem.set_metric import SetProblem
from tests import tiny

SITES = ("mlp_neuron", "head_output", "mlp_output")


def built(sites: Any = ("head_output",), **more: Any) -> LanguageProblem:
    options = {"holdout": 0, "direction": "maximise", **more}
    return LanguageProblem(tiny.model("gpt2"), tiny.task(7), sites=sites, **options)


def test_a_shuffled_space_gives_the_same_numbers_by_as_many_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    taps: list[int] = []
    inner: Callable[..., torch.Tensor] = scorer.forward

    def counted(model: Any, layout: Any, edits: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        taps.append(len(edits))
        return inner(model, layout, edits, *args, **kwargs)

    monkeypatch.setattr(scorer, "forward", counted)
    ordered = built(SITES)
    space = ordered.space
    order = random.Random(0).sample(range(len(space)), len(space))
    shuffled = built(ComponentSpace(tuple(space[i] for i in order)))
    z = torch.rand(2, len(space), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(shuffled.training.scorer.base, ordered.training.scorer.base)  # runs without edits, once each
    taps.clear()
    assert torch.equal(shuffled.effects(z[:, order]), ordered.effects(z))
    assert torch.equal(shuffled.gradient(z[0, order]), ordered.gradient(z[0])[order])
    assert set(taps) == {9}, "three sites in three layers"


def test_part_of_a_place_in_any_order_leaves_the_rest_alone() -> None:
    whole = built()
    names = ["L1.head3", "L0.head2", "L1.head0"]
    part = built(ComponentSpace.parse(names))
    z = torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)
    same = torch.zeros(len(whole.space), dtype=torch.float64)
    for name, share in zip(names, z.tolist(), strict=True):
        same[whole.space.names.index(name)] = share
    assert torch.allclose(part.effects(z), whole.effects(same), atol=1e-12)
    where = [whole.space.names.index(name) for name in names]
    assert torch.allclose(part.gradient(z), whole.gradient(same)[where], atol=1e-12)


def test_logits_are_measured_batch_by_batch_and_never_as_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(metric="kl")
    table, base = whole.scores(z := torch.rand(3, 12, dtype=torch.float64)), whole.training.scorer.base
    log_p, log_q = base.log_softmax(-1), table.log_softmax(-1)
    wanted = (log_p.exp() * (log_p - log_q)).sum(-1)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a table of all logits")

    monkeypatch.setattr(scored.ScoredPairs, "chunks", refuse)
    monkeypatch.setattr(scored.ScoredPairs, "scores", refuse)
    for where in (scored, pairs):
        monkeypatch.setattr(where, "PIECE_NUMBERS", 2 * base.shape[1])
    for tokens in (8, 1000):
        some = built(metric="kl", batch_tokens=tokens)
        assert isinstance(some.training, PairProblem)
        assert torch.allclose(some.effects(z), wanted, atol=1e-9)
        assert torch.allclose(some.effects(z[0], [5, 2]), wanted[0, [5, 2]], atol=1e-9)
        assert torch.allclose(some.training.reported(z), wanted.mean(-1), atol=1e-9)
        assert some.training.rounding == pytest.approx(whole.training.rounding, rel=1e-6)
        assert some.full_swap.mean == pytest.approx(whole.full_swap.mean)
        assert some.training.full_levels.tolist() == pytest.approx(some.training.full_swap.tolist())
    assert some.cost.forward_equivalents == pytest.approx(3 + 2 / 7 + 3)


def test_nearness_to_a_level_of_logits_is_measured_batch_by_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = built(metric="kl")
    z = torch.rand(3, 12, dtype=torch.float64)
    log_p, log_q = plain.training.scorer.base.log_softmax(-1), plain.scores(z).log_softmax(-1)
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    wanted = 0.02 - (each.mean(-1) - 0.02).abs()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a table of all logits")

    for name in ("chunks", "scores"):
        monkeypatch.setattr(scored.ScoredPairs, name, refuse)
    monkeypatch.setattr(scored.ScoredPairs, "full_scores", property(refuse))
    monkeypatch.setattr(scored, "PIECE_NUMBERS", 2 * plain.training.scorer.base.shape[1])
    for tokens in (8, 1000):
        near = built(metric="kl", direction="target=0.02", batch_tokens=tokens)
        assert isinstance(near.training, SetProblem)
        assert torch.allclose(near.value(z), wanted, atol=1e-9)
        assert torch.allclose(near.training.reported(z), each.mean(-1), atol=1e-9)
        assert near.training.reported_base == pytest.approx(0, abs=1e-12)
        counts = torch.tensor([[2, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 7]])
        drawn = (each @ counts.T.double() / 7 - 0.02).abs()
        assert torch.allclose(near.training.redrawn(z, [counts]), 0.02 - drawn, atol=1e-9)
        gradient = near.gradient(z[0])
        for i in (0, 5, 11):
            step = torch.zeros(12, dtype=torch.float64).index_fill(0, torch.tensor([i]), 1e-5)
            difference = (near.value(z[0] + step) - near.value(z[0] - step)) / 2e-5
            assert gradient[i].item() == pytest.approx(difference.item(), rel=1e-4, abs=1e-8)
        parts = torch.stack([near.gradient(z[0], None, part) * len(part) for part in ([0, 1, 2], [3, 4, 5, 6])]).sum(0)
        assert torch.allclose(parts / 7, gradient, atol=1e-12)


def test_the_base_runs_logits_share_the_memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy, tight = built(metric="kl"), built(metric="kl", memory="50KB")
    logits = 7 * tiny.VOCABULARY * 8
    assert roomy.stored["memory"] >= logits
    assert tight.stored["memory"] <= 50_000
    z = torch.full((12,), 0.5, dtype=torch.float64)
    assert torch.equal(tight.effects(z), roomy.effects(z))

    def full(*_: object) -> torch.Tensor:
        raise NoRoom

    monkeypatch.setattr(roomy.training.scorer, "_keep", full)
    del roomy.training.scorer.base
    with pytest.raises(InputError, match=r"logits of 7 pairs have no room"):
        _ = roomy.training.scorer.base


@pytest.mark.parametrize("per_position", [False, True])
def test_running_means_are_those_of_all_recorded_values(per_position: bool) -> None:
    problem = built(("head_output", "mlp_neuron"), donors="zero")
    model, pairs, packing = problem.model, problem.encoding.pairs, problem.packing
    places = [slot.spot[0] for slot in problem.training.scorer._slots.slots]
    values = record(model, pairs, places, packing).values
    position = torch.cat([torch.arange(len(pair.prompt)) for pair in pairs])
    for tokens in (6, 1000):
        found = mean_values(model, pairs, places, packing.holding(tokens), per_position)
        for place in places:
            rows = range(max(len(p.prompt) for p in pairs)) if per_position else [None]
            own = [values[place][slice(None) if at is None else position == at].mean(0) for at in rows]
            assert torch.allclose(found[place], torch.stack(own), atol=1e-12)


def test_a_mean_keeps_no_value_of_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("values of every token are kept")

    monkeypatch.setattr("cotrace.donors.sources.record", refuse)
    problem = built(donors=Mean(per_position=True), memory="1KB")
    assert problem.stored == {"memory": 0, "disk": 0, "recomputed": 0}


def test_noise_is_the_same_whatever_a_pass_holds() -> None:
    donors = Noise(std=1.0, seed=3)
    z = torch.ones(12, dtype=torch.float64)
    wide, narrow = (built(donors=donors, batch_tokens=tokens, positions="prompt+answer") for tokens in (1000, 6))
    assert narrow.plan.batches > wide.plan.batches
    assert torch.allclose(narrow.effects(z), wide.effects(z), atol=1e-10)
    assert wide.effects(z).abs().max() > 1e-3


def test_site_enumeration_keeps_a_place_once() -> None:
    space = tiny.model("gpt2").space((Site.HEAD_OUTPUT,), ("all", "last"))
    problem = built(ComponentSpace(space.components[::-1]))
    spots = problem.training.scorer.spots
    assert len(spots) == len(set(spots)) == 6
