"""Who feeds whom: against plain hooks written out by hand, and on decoders whose circuit is set into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from cotrace.components import Component
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.readout.changes import Changes
from cotrace.readout.held import HeldRuns, passes_of
from cotrace.readout.paths import before, follow, most_runs, swap, through
from cotrace.readout.records import Paths
from tests import tiny
from tests.handmade import PLANTED
from tests.interventions.test_by_hand import log_p, parts

Hook = Callable[..., Any]


@contextmanager
def hooks(*pairs: tuple[nn.Module, Hook]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, hook in pairs:
            stack.callback(module.register_forward_pre_hook(hook).remove)
        yield


def keeping(into: list[Tensor]) -> Hook:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        into.append(args[0].clone())

    return hook


def putting(value: Tensor, at: slice) -> Hook:
    """Put a value's features in, at as many leading positions as it has."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        changed = args[0].clone()
        changed[0, : value.shape[1], at] = value[0, :, at]
        return (changed,)

    return hook


def where(model: LanguageModel, member: Component) -> tuple[nn.Module, slice]:
    """The projection that a head or neuron goes into, and its features there."""
    neuron = member.site.value == "mlp_neuron"
    width = 1 if neuron else model.layers[member.layer].d_head
    start = (member.unit or 0) * width
    return parts(model, member.layer)[neuron], slice(start, start + width)


def through_by_hand(model: LanguageModel, task: Any, source: Component, target: Component) -> Tensor:
    """Scores with the target at its value under the source's swap, one answer at a time."""
    words = model.require_tokenizer()
    (first, own), (later, other) = where(model, source), where(model, target)
    table = torch.zeros(len(task.pairs), 2, dtype=torch.float64)
    for e, pair in enumerate(task.pairs):
        base, donor = (words(text)["input_ids"] for text in (pair.base, pair.counterfactual))
        for a, answer in enumerate(words(text)["input_ids"] for text in pair.answers):
            seen, held = list[Tensor](), list[Tensor]()
            with hooks((first, keeping(seen))):
                model.module(input_ids=torch.tensor([donor]))
            with hooks((first, putting(seen[0], own)), (later, keeping(held))):
                log_p(model.module, base, answer)
            with hooks((later, putting(held[0], other))):
                table[e, a] = log_p(model.module, base, answer)
    return table


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("names", ["L0.head1 L2.head3", "L0.neuron5 L1.head2", "L1.head0 L1.neuron3"])
@torch.no_grad()
def test_a_path_is_what_hooks_by_hand_make_of_it(family: str, names: str) -> None:
    model, task = tiny.model(family), tiny.task()
    source, target = map(Component.parse, names.split())
    problem = LanguageProblem(model, task, sites=["head_output", "mlp_neuron"], holdout=0)
    found = HeldRuns(problem.training.scorer).scores([through(source, target)])[0]
    expected = through_by_hand(model, task, source, target)
    assert (expected - problem.training.scorer.base).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("part", ["query", "key", "value"])
@torch.no_grad()
def test_one_input_of_a_head_is_what_attention_by_hand_makes_of_it(part: str) -> None:
    """GPT-2's attention written out: another query, key or value of head 3, and what that head gives put in."""
    model, task = tiny.model("gpt2"), tiny.task(answer_tokens=(1, 1))
    source, target = Component.parse("L0.head1"), Component.parse("L2.head3")
    problem = LanguageProblem(model, task, sites=["head_output"], holdout=0)
    found = HeldRuns(problem.training.scorer).scores([through(source, target, part=part)])[0]
    words, (first, own), (later, other) = model.require_tokenizer(), where(model, source), where(model, target)
    attention = model.module.transformer.h[2].attn
    for e, pair in enumerate(task.pairs):
        base, donor = (words(text)["input_ids"] for text in (pair.base, pair.counterfactual))
        seen, plain, changed = list[Tensor](), list[Tensor](), list[Tensor]()
        with hooks((first, keeping(seen)), (attention.c_attn, keeping(plain))):
            model.module(input_ids=torch.tensor([base]))
        seen.clear()
        with hooks((first, keeping(seen))):
            model.module(input_ids=torch.tensor([donor]))
        with hooks((first, putting(seen[0], own)), (attention.c_attn, keeping(changed))):
            model.module(input_ids=torch.tensor([base]))
        mine, new = (
            dict(zip(("query", "key", "value"), attention.c_attn(x[0])[0].split(32, -1), strict=True))
            for x in (plain, changed)
        )
        query, key, value = ((new if name == part else mine)[name][:, other] for name in ("query", "key", "value"))
        scores = query @ key.T / 8**0.5
        made = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1) @ value
        whole = torch.zeros(1, len(base), 32, dtype=torch.float64)
        whole[0, :, other] = made
        with hooks((later, putting(whole, other))):
            expected = [log_p(model.module, base, words(answer)["input_ids"]) for answer in pair.answers]
        assert found[e].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("part", ["query", "key", "value"])
@torch.no_grad()
def test_one_input_of_a_group_is_what_its_projection_by_hand_makes_of_it(part: str) -> None:
    """Llama: queries, keys or values of another run are put behind their projection; both heads of a group are held."""
    model, task = tiny.model("llama"), tiny.task(answer_tokens=(1, 1))
    source, target = Component.parse("L0.kv1"), Component.parse("L2.kv0")
    problem = LanguageProblem(model, task, sites=["kv_group"], holdout=0)
    found = HeldRuns(problem.training.scorer).scores([through(source, target, part=part)])[0]
    words, layer = model.require_tokenizer(), model.layers[2]
    heads, groups, size = layer.heads, problem.model.places(target.site)[2].units, layer.d_head
    own, other = (slice(g * size * heads // groups, (g + 1) * size * heads // groups) for g in (1, 0))
    attention = model.module.model.layers[2].self_attn
    given = {"query": attention.q_proj, "key": attention.k_proj, "value": attention.v_proj}[part]
    mine = other if part == "query" else slice(0, size)
    first, later = parts(model, 0)[0], parts(model, 2)[0]

    def put_behind(value: Tensor) -> Hook:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[..., mine] = value[..., mine]
            return changed

        return hook

    for e, pair in enumerate(task.pairs):
        base, donor = (words(text)["input_ids"] for text in (pair.base, pair.counterfactual))
        seen, changed, held = list[Tensor](), list[Tensor](), list[Tensor]()
        with hooks((first, keeping(seen))):
            model.module(input_ids=torch.tensor([donor]))
        watched = given.register_forward_hook(lambda module, args, output, into=changed: into.append(output.clone()))
        with hooks((first, putting(seen[0], own))):
            model.module(input_ids=torch.tensor([base]))
        watched.remove()
        behind = given.register_forward_hook(put_behind(changed[0]))
        with hooks((later, keeping(held))):
            model.module(input_ids=torch.tensor([base]))
        behind.remove()
        with hooks((later, putting(held[0], other))):
            expected = [log_p(model.module, base, words(answer)["input_ids"]) for answer in pair.answers]
        assert found[e].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sites", [["attention_pattern"], ["mlp_output", "kv_group", "mlp_coordinate"], ["residual"]])
def test_a_member_held_at_its_own_value_changes_nothing(sites: list[str]) -> None:
    """A swap in a later layer does not reach an earlier component: every site is held at its base value."""
    problem = LanguageProblem(tiny.model("llama"), tiny.task(), sites=sites, holdout=0)
    late = problem.space[len(problem.space) - 1]
    runs = [through(late, problem.space[i]) for i in range(0, len(problem.space) // 2, 7)]
    found = HeldRuns(problem.training.scorer).scores(runs)
    torch.testing.assert_close(found, problem.training.scorer.base.expand_as(found), atol=1e-9, rtol=0)


def test_the_stream_carries_everything() -> None:
    """The residual stream behind the last layer held at its value under a swap is that swap."""
    sites = ["head_output", "residual"]
    problem = LanguageProblem(tiny.model("llama"), tiny.task(), sites=sites, holdout=0)
    head, stream = Component.parse("L1.head0"), Component.parse("L2.resid")
    found = HeldRuns(problem.training.scorer).scores([through(head, stream), swap(head)])
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)


def test_a_role_is_held_at_its_positions_only() -> None:
    """At the last position alone, and at all others alone: for a head of the last layer only the first is read."""
    problem = LanguageProblem(
        tiny.model("gpt2"), tiny.task(answer_tokens=(1, 1)), sites=["head_output"], holdout=0, roles=("all", "last")
    )
    source = Component.parse("L0.head1")
    whole, last = (through(source, Component.parse(name)) for name in ("L2.head3", "L2.head3@last"))
    found = HeldRuns(problem.training.scorer).scores([whole, last])
    torch.testing.assert_close(found[0], found[1], atol=1e-9, rtol=0)
    early, late = (through(source, Component.parse(name)) for name in ("L1.head3", "L1.head3@last"))
    found = HeldRuns(problem.training.scorer).scores([early, late])
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_all_arrows_have_one_critical_value() -> None:
    """Half an interval is as many standard errors of the effects, made by hooks by hand, for each arrow: it holds them
    all at once."""
    model, task = tiny.model("gpt2"), tiny.task(24)
    problem = LanguageProblem(model, task, sites=["head_output"], holdout=0, direction="maximise")
    members = [Component.parse(name) for name in ("L0.head1", "L1.head2", "L2.head3")]
    changes = Changes.of(problem, "training")
    found, part = follow(changes, changes, members)[0], problem.training
    values = []
    for source, target in combinations(members, 2):
        scores = through_by_hand(model, task, source, target)
        effects = part.metric.effects(scores, part.scorer.base, part.answers).double().numpy()
        arrow = found.arrow(str(source), str(target))
        assert arrow is not None
        assert arrow.interval is not None
        assert sum(arrow.interval) / 2 == pytest.approx(effects.mean())
        values.append((arrow.interval[1] - effects.mean()) / (effects.std(ddof=1) / len(effects) ** 0.5))
    assert values == [pytest.approx(values[0], rel=0.1)] * 3
    assert min(values) > 1.15 * stats.t.ppf(0.975, 23)


def test_small_batches_and_plain_rows_give_the_same() -> None:
    members = [Component.parse(name) for name in ("L0.head1", "L1.head2", "L2.head3")]
    runs = [swap(*members), through(members[0], members[2], part="key"), through(members[0], members[1], members[2])]
    tables = []
    for options in ({}, {"batch_tokens": 8}, {"packing": "plain"}):
        problem = LanguageProblem(tiny.model("qwen3"), tiny.task(), sites=["head_output"], holdout=0, **options)
        tables.append(HeldRuns(problem.training.scorer).scores(runs))
    for table in tables[1:]:
        torch.testing.assert_close(table, tables[0], atol=1e-9, rtol=0)


def test_order_of_components() -> None:
    """Layers first; within one: a pattern before its head, attention before the MLP, heads beside each other."""
    parse = Component.parse
    later = ["L0.head1 L1.head0", "L0.pattern1 L0.head1", "L0.head1 L0.mlp", "L0.neuron3 L0.mlp", "L0.mlp L0.resid"]
    beside = ["L0.head1 L0.head2", "L1.head0 L0.head1", "L0.neuron1 L0.neuron2", "L0.head1 L0.kv0"]
    for names, expected in [(n, True) for n in later] + [(n, False) for n in beside[:3]]:
        assert before(*map(parse, names.split())) is expected


# Decoders whose weights are set by hand.


@cache
def followed(name: str, everything: bool = False) -> tuple[Paths, float]:
    one = PLANTED[name]()
    problem = LanguageProblem(one.model, one.task, sites=["head_output"], donors=one.donors, holdout=0)
    names = problem.space.names if everything else [*one.circuit, *one.others]
    changes = Changes.of(problem, "training")
    paths, _ = follow(changes, changes, list(map(Component.parse, names)))
    return paths, problem.cost.forward_equivalents


def test_the_induction_pair_is_one_arrow_into_the_key() -> None:
    """Of all pairs of all heads: the arrow carries at least 95 % of the first one's effect, no other above 5 %."""
    paths, _ = followed("induction", everything=True)
    arrow = paths.arrow("L0.head2", "L1.head1")
    assert arrow is not None
    assert arrow.share is not None
    assert arrow.share > 0.95
    assert arrow.parts["key"] == pytest.approx(arrow.effect, rel=1e-6)
    assert abs(arrow.parts["query"]) + abs(arrow.parts["value"]) < 1e-6
    assert arrow.part_intervals["key"] == pytest.approx(arrow.interval)
    assert [a for a in paths.arrows if a.evidence] == [arrow]
    assert arrow.evidence == "interval"
    assert max(abs(a.effect) for a in paths.arrows if a is not arrow) < 0.05 * abs(arrow.effect)


def test_a_pattern_has_a_query_and_a_key() -> None:
    """The same arrow, into where the second head looks: all of it by the key, and a pattern has no value."""
    one = PLANTED["induction"]()
    problem = LanguageProblem(one.model, one.task, sites=["L0.head2", "L1.pattern1"], donors=one.donors, holdout=0)
    changes = Changes.of(problem, "training")
    paths, _ = follow(changes, changes, list(problem.space))
    arrow = paths.arrow("L0.head2", "L1.pattern1")
    assert arrow is not None
    assert arrow.share == pytest.approx(1, abs=0.05)
    assert arrow.parts == {"query": pytest.approx(0, abs=1e-6), "key": pytest.approx(arrow.effect, rel=1e-6)}
    assert paths.partial == ()


def test_few_pairs_leave_an_arrow_by_its_size_alone() -> None:
    """Nine pairs are too few for an interval, and the arrow says that of itself; ten are not."""
    one = PLANTED["induction"]()
    told = {}
    for count in (9, 10):
        task = replace(one.task, pairs=one.task.pairs[:count])
        problem = LanguageProblem(one.model, task, sites=["head_output"], donors=one.donors, holdout=0)
        changes = Changes.of(problem, "training")
        told[count] = follow(changes, changes, list(map(Component.parse, one.circuit)))[0].arrows
    (few,), (enough,) = (told[count] for count in (9, 10))
    assert (few.evidence, few.mark, few.interval) == ("size alone", "no interval", None)
    assert few.part_intervals == {"query": None, "key": None, "value": None}
    assert (enough.evidence, enough.mark) == ("interval", "")


def test_a_backups_arrow_is_there_only_with_its_partner_swapped() -> None:
    paths, _ = followed("two hops")
    whole = abs(paths.together)
    alone, given = (paths.arrow("L2.head2", "L3.head1", partner) for partner in (None, "L1.head0"))
    assert alone is not None
    assert given is not None
    assert abs(alone.effect) < 0.05 * whole
    assert not alone.evidence
    assert given.share == pytest.approx(1, abs=1e-6)
    assert given.kind == "redundant"
    assert abs(given.effect) > 0.9 * whole
    backup = next(member for member in paths.members if member.component == "L2.head2")
    assert (backup.partner, backup.taken_back, backup.inhibits) == ("L1.head0", False, False)
    assert abs(backup.effect) < 0.05 * whole < 0.9 * whole < abs(backup.with_partner or 0)


def test_an_inhibitor_has_the_other_sign() -> None:
    """What the copies do through the head that takes nine tenths of it back is of the other sign, as is its own."""
    paths, _ = followed("inhibited copy")
    for copy in ("L0.head0", "L0.head3"):
        arrow = paths.arrow(copy, "L1.head2")
        member = next(m for m in paths.members if m.component == copy)
        assert arrow is not None
        assert arrow.kind == "inhibiting"
        assert arrow.effect * paths.together < 0
        assert arrow.effect == pytest.approx(-0.9 * (member.effect - arrow.effect), rel=0.02)
        assert (member.partner, member.taken_back) == ("L1.head2", True)
    assert [m.component for m in paths.members if m.inhibits] == ["L1.head2"]


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_what_it_costs_is_said_before(name: str) -> None:
    paths, cost = followed(name)
    assert cost <= most_runs(len(paths.members))
    assert all(most_runs(k) <= 4 * k**2 for k in range(1, 60))


def test_passes_are_counted_with_their_sources() -> None:
    a, b, c = (Component.parse(name) for name in ("L0.head0", "L1.head0", "L2.head0"))
    assert passes_of([swap(a), through(a, b), through(a, c), through(b, c)]) == 5
