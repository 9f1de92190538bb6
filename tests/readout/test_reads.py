"""What members read: against attention that transformers itself gives, and on decoders whose heads are set by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cotrace.components import Component
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.readout.logit_parts import Writer
from cotrace.readout.output_maps import ov_maps
from cotrace.readout.paths import acting_groups, changed, prompt_groups
from cotrace.readout.reads import BEHAVIOURS, looked_at, random_rows, random_scores, read, scores_of
from cotrace.readout.records import Behaviour, Look, Read
from tests import tiny
from tests.handmade import PLANTED, WORDS, Heads, build, pairs


def spanned(count: int = 4) -> Task:
    """Pairs whose third word is a span of its own; base and counterfactual differ in the second and third."""
    task = tiny.task(count, answer_tokens=(1, 1))

    def third(text: str) -> tuple[int, int]:
        words = text.split(" ")
        start = len(" ".join(words[:2])) + 1
        return start, start + len(words[2])

    made = [replace(pair, spans={"third": third(pair.base)}) for pair in task.pairs]
    return replace(task, pairs=tuple(made))


@pytest.fixture(scope="module")
def problem() -> LanguageProblem:
    return LanguageProblem(tiny.model("llama"), spanned(), sites=["head_output", "mlp_neuron"], holdout=0)


def test_every_position_is_in_one_group(problem: LanguageProblem) -> None:
    """The span first, then the words that differ, the last and the first token, and the rest."""
    pairs = problem.training.scorer.pairs
    for pair, groups in zip(pairs, prompt_groups(problem, pairs), strict=True):
        n = len(pair.prompt)
        assert groups["third"] == (2,)
        assert groups.get("changed", ()) == tuple(i for i in changed(pair) if i != 2)
        assert sorted(i for where in groups.values() for i in where) == list(range(n))
        assert groups["last"] == (n - 1,)
    for pair, groups in zip(pairs, prompt_groups(problem, pairs, donor=True), strict=True):
        assert groups["third"] == (2,), "the counterfactual names no span: it is where the base prompt's is"
        assert len(pair.donor) == 1 + max(i for where in groups.values() for i in where)


@torch.no_grad()
def test_looks_are_the_attention_that_transformers_gives(problem: LanguageProblem) -> None:
    """Mean over pairs of the mean over queries of the sum over keys, for base and donor run."""
    head, pairs = Component.parse("L1.head2"), problem.training.scorer.pairs
    (told,), _, lacking = read(problem, [head], pairs)
    assert not lacking
    module = problem.model.module
    module.set_attn_implementation("eager")
    for run, prompts in (("base", [p.prompt for p in pairs]), ("donor", [p.donor for p in pairs])):
        groups = prompt_groups(problem, pairs, donor=run == "donor")
        for query, key in (("last", "third"), ("last", "first"), ("third", "first")):
            sums = []
            for prompt, own in zip(prompts, groups, strict=True):
                pattern = module(input_ids=torch.tensor([prompt]), output_attentions=True).attentions[1][0, 2]
                sums.append(float(pattern[list(own[query])][:, list(own[key])].sum(1).mean()))
            look = next(one for one in told.looks if (one.query, one.key) == (query, key))
            assert getattr(look, run) == pytest.approx(sum(sums) / len(sums), abs=1e-6)
    module.set_attn_implementation("sdpa")


def test_what_a_head_of_each_kind_looks_at() -> None:
    """On ``a b c a b``: from the last b to the a before, to the b before, behind it, to the first, to itself."""
    told = looked_at("abcab")
    keys = {name: rows[4].nonzero().flatten().tolist() for name, rows in told.items()}
    assert keys == dict(zip(BEHAVIOURS, ([3], [1], [2], [0], [4]), strict=True))
    for name in ("duplicate token", "induction"):
        assert told[name].any(1).tolist() == [False, False, False, True, True]
    uniform = torch.ones(1, 5, 5).tril() / torch.arange(1, 6)[:, None]
    assert scores_of(uniform, ["abcab"])["induction"] == pytest.approx((1 / 4 + 1 / 5) / 2)


def test_heads_set_by_hand_are_named_as_what_they_are() -> None:
    heads = Heads(1, 4)
    place, token = heads.spaces["place"], heads.spaces["token"]
    heads.attend((0, 0), "place", "place", 8.0, shift=1)
    heads.attend((0, 1), "place", "place", 8.0)
    first = torch.zeros(place, heads.width)
    first[:, 0] = 8.0 * heads.width**0.5
    heads.set(0, 2, "q", "place", first)
    heads.set(0, 2, "k", "place", torch.eye(place))
    heads.set(0, 3, "q", "token", 8.0 * heads.width**0.5 * torch.eye(token))
    heads.set(0, 3, "k", "token", torch.eye(token))
    own = torch.zeros(place, heads.width)
    own[:, token : token + place] = -12.0 * heads.width**0.5 * torch.eye(place)
    heads.set(0, 3, "q", "place", own)
    behind = torch.zeros(place, heads.width)
    behind[:, token : token + place] = torch.eye(place)
    heads.set(0, 3, "k", "place", behind)
    model = build(heads)
    names = [Component.parse(f"L0.head{unit}") for unit in range(4)]
    told = random_scores(model, names)
    assert told is not None
    best = [max(one, key=one.__getitem__) for one in told]
    assert best == ["previous token", "self", "beginning of text", "duplicate token"]


def test_a_head_that_only_rests_on_the_first_token_is_not_named_by_it() -> None:
    rest = Behaviour(name="beginning of text", random=0.9, base=0.9, donor=None)
    weak = Behaviour(name="induction", random=0.3, base=0.5, donor=None)
    strong = replace(weak, random=0.6)
    look = Look(query="last", key="first", base=0.8, donor=None)
    assert Read(component="L0.head0", attends=True, behaviours=(rest, weak)).behaviour is None
    assert Read(component="L0.head0", attends=True, behaviours=(rest, weak), looks=(look,)).behaviour == rest
    assert Read(component="L0.head0", attends=True, behaviours=(rest, strong), looks=(look,)).behaviour == strong


def test_random_rows_are_two_equal_halves_of_different_tokens() -> None:
    rows = random_rows(tiny.model("llama"))
    assert rows is not None
    half = rows.shape[1] // 2
    assert torch.equal(rows[:, :half], rows[:, half:])
    assert all(len(set(row[:half])) == half for row in rows.tolist())


@torch.no_grad()
def test_where_a_neuron_is_active_is_the_size_of_its_value(problem: LanguageProblem) -> None:
    neuron, pairs = Component.parse("L1.neuron5"), problem.training.scorer.pairs
    (told,), examples, _ = read(problem, [neuron], pairs)
    assert not told.attends
    assert not examples
    down = problem.model.module.model.layers[1].mlp.down_proj
    seen: list[torch.Tensor] = []
    handle = down.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, :, 5].abs()))
    for pair in pairs:
        problem.model.module(input_ids=torch.tensor([pair.prompt]))
    handle.remove()
    at_last = sum(float(values[-1]) for values in seen) / len(pairs)
    assert next(one.base for one in told.looks if one.query == "last") == pytest.approx(at_last, abs=1e-9)


def test_a_copying_head_copies_and_another_does_not() -> None:
    """A head that moves each letter to the same letter's logit, and one that moves it to the next one's."""
    heads = Heads(1, 2)
    heads.move((0, 0), "token", "out")
    letters = torch.eye(9)
    heads.set(0, 1, "v", "token", letters)
    heads.set(0, 1, "o", "out", letters.roll(1, 0) - 2 * letters)
    model = build(heads)
    task = pairs("copy", lambda a, b, c, d: (f"{c} {a} {b} {d}", f"{c} {b} {a} {d}", a, b), 4)
    problem = LanguageProblem(model, task, sites=["head_output"], holdout=0)
    scorer = problem.training.scorer
    looked = {"L0.head0": WORDS, "L0.head1": WORDS}
    told = ov_maps(scorer, Writer(model), problem.space[:], scorer.pairs, looked)
    assert (told["L0.head0"].copies, told["L0.head1"].copies) == (1, 0)
    for name, shift in (("L0.head0", 0), ("L0.head1", 1)):
        assert told[name].moved
        for one in told[name].moved:
            assert one.raises[0] == WORDS[WORDS.index(one.token) + shift]


def test_groups_keep_to_the_positions_that_a_mask_can_change() -> None:
    """Nothing before the first difference, and no more groups than asked for."""
    problem = LanguageProblem(tiny.model("llama"), spanned(), sites=["head_output"], holdout=0)
    scorer = problem.training.scorer
    groups = prompt_groups(problem, scorer.pairs)
    for most in (3, 5, 30):
        told = acting_groups(scorer.pairs, groups, most)
        assert len(told) <= max(most, 4)
        first = [min(changed(pair)) for pair in scorer.pairs]
        for where in told.values():
            assert all(not some or min(some) >= start for some, start in zip(where, first, strict=True))
    assert "first" not in told, "base and donor prompt begin alike"


def test_a_planted_induction_pair_is_named_on_random_tokens() -> None:
    one = PLANTED["induction"]()
    problem = LanguageProblem(one.model, one.task, sites=["head_output"], holdout=0)
    told, _, _ = read(problem, list(map(Component.parse, one.circuit)), problem.training.scorer.pairs)
    assert [one.behaviour and one.behaviour.name for one in told] == ["previous token", "induction"]
