"""Features and errors in a problem: against forward passes with hooks by hand, and against the site's own swap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

import cotrace as ct
from cotrace.components import Component
from cotrace.dictionaries import Dictionary, describe, features_of_heads
from cotrace.errors import DegenerateError, InputError, NonFiniteError, UnsupportedSite
from cotrace.evaluation.evaluate import TooFewPairs
from cotrace.problem._coverage import NestedSites
from cotrace.problem.spaces import PoorDictionary
from cotrace.readout.logit_parts import Writer
from cotrace.readout.writes import Writes
from tests import tiny
from tests.dictionaries.toy import ALL, FEATURES, MODEL, TASK, by_hand, dense, dictionary

pytestmark = [
    pytest.mark.filterwarnings("ignore::cotrace.problem.spaces.PoorDictionary"),
    pytest.mark.filterwarnings("ignore::cotrace.problem._coverage.RefusedPairs"),
]

JUMP = torch.full((FEATURES,), 0.3, dtype=ALL)
PLACES: dict[str, tuple[Dictionary, str, int]] = {
    "residual": (dictionary("blocks.1.hook_resid_post", 0), "residual", 1),
    "residual before": (dictionary("blocks.2.hook_resid_pre", 1, norm="constant_norm_rescale"), "residual", 1),
    "heads": (dictionary("blocks.0.attn.hook_z", 2, threshold=JUMP), "head_output", 0),
    "one head": (dictionary("blocks.1.attn.hook_z", 9, width=8, head=2, norm="layer_norm"), "head_output", 1),
    "attention": (dictionary("blocks.1.hook_attn_out", 3, norm="layer_norm"), "attention_output", 1),
    "MLP": (dictionary("blocks.2.hook_mlp_out", 4, k=4), "mlp_output", 2),
    "by path": (dictionary("transformer.h.1.mlp", 5), "mlp_output", 1),
    "neurons": (dictionary("blocks.1.mlp.hook_post", 6, width=128), "mlp_neuron", 1),
    "transcoder": (dictionary("blocks.1.mlp.hook_in", 7, hook_out="blocks.1.hook_mlp_out"), "mlp_output", 1),
    "transcoder of the norm": (
        dictionary("blocks.0.ln2.hook_normalized", 8, hook_out="blocks.0.hook_mlp_out", threshold=JUMP),
        "mlp_output",
        0,
    ),
}
EVEN = replace(
    TASK, pairs=tuple(replace(p, id=f"{p.id}-{seed}") for seed in (0, 1, 2) for p in tiny.task(3, seed=seed).pairs)
)
"""Three pairs of each length."""
DONORS = ("counterfactual", "zero", "mean=task", "scale=0.3", "noise=0.5", "resample")


@cache
def problem(place: str, donors: str = "counterfactual", **rest: Any) -> ct.LanguageProblem:
    options = {"sites": ["feature", "error"], "holdout": 0.34, "direction": "maximise"} | rest
    task = EVEN if donors == "resample" else TASK
    return ct.LanguageProblem(MODEL, task, dictionaries=[PLACES[place][0]], donors=donors, **options)


@pytest.mark.parametrize("donors", DONORS)
@pytest.mark.parametrize("place", ["residual before", "MLP", "transcoder"])
def test_features_and_error_together_are_the_site(place: str, donors: str) -> None:
    check_whole(place, donors)


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"residual before", "MLP", "transcoder"}))
def test_features_and_error_together_are_the_site_at_every_place(place: str) -> None:
    check_whole(place, "counterfactual")


def check_whole(place: str, donors: str) -> None:
    """Mask 0 is the base run, mask 1 the site's own swap, on pairs that the space was made of and on unseen ones."""
    one, site, layer = PLACES[place]
    ours = problem(place, donors)
    whole = ct.LanguageProblem(MODEL, ours.source_task, sites=[site], donors=donors, holdout=0.34, direction="maximise")
    mine = [c.layer == layer and one.head in (None, c.unit) for c in whole.space]
    at_layer = torch.tensor(mine, dtype=ALL)
    ones = torch.ones(len(ours.space), dtype=ALL)
    for mine, theirs in ((ours, whole), (ours.heldout, whole.heldout)):
        assert mine is not None
        assert theirs is not None
        torch.testing.assert_close(mine.effects(ones), theirs.effects(at_layer), rtol=0, atol=1e-9)
        assert float(mine.effects(0 * ones).abs().max()) <= 1e-12
        assert float(mine.effects(ones).abs().min()) > 1e-6


def test_features_of_one_head_are_those_of_a_dictionary_of_all_that_is_zero_elsewhere() -> None:
    """Effects of soft masks, gradients, what each writes, and what its direction promotes."""
    one = dictionary("blocks.1.attn.hook_z", 9, width=8, head=2)
    whole = replace(
        one,
        head=None,
        encoder=pad(one.encoder, (16, 8)),
        decoder=pad(one.decoder, (16, 8)),
        offset=pad(one.offset, (16, 8)),
    )
    options: dict[str, Any] = {"sites": ["feature"], "holdout": 0, "direction": "maximise"}
    ours, theirs = (ct.LanguageProblem(MODEL, TASK, dictionaries=[d], **options) for d in (one, whole))
    assert ours.space == theirs.space
    z = torch.rand(len(ours.space), generator=torch.Generator().manual_seed(1), dtype=ALL)
    assert float(ours.effects(z).abs().max()) > 1e-3
    torch.testing.assert_close(ours.effects(z), theirs.effects(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.gradient(z), theirs.gradient(z), rtol=0, atol=1e-12)
    members = list(ours.space[:3])
    cards = [[replace(c, link=None) for c in describe(p.model, members, TASK)] for p in (ours, theirs)]
    assert cards[0] == cards[1]
    assert features_of_heads(ours.model, ["L1.head2"]) == list(
        map(Component.parse, [f"L1.feature{i}" for i in range(FEATURES)])
    )
    assert features_of_heads(ours.model, ["L1.head1"]) == []
    told = [Writes(p.training.scorer, members, Writer(p.model)).run() for p in (ours, theirs)]
    weight = torch.ones(len(TASK.pairs))
    for i in range(3):
        own, other = (found.member(i, weight) for found in told)
        assert own.base is not None
        assert (own.base, own.donor) == pytest.approx((other.base, other.donor), abs=1e-9)
    torch.testing.assert_close(told[0].direct, told[1].direct, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore")  # pairs are repeated on purpose
def test_the_mean_by_position_is_taken_at_each_position() -> None:
    pairs = tuple(replace(pair, id=f"{pair.id}-{i}") for i in range(3) for pair in tiny.task(3, seed=4).pairs)
    task = replace(TASK, pairs=pairs)
    options = {"donors": "mean=position", "holdout": 0, "direction": "maximise"}
    ours = ct.LanguageProblem(MODEL, task, dictionaries=[PLACES["MLP"][0]], sites=["feature", "error"], **options)
    whole = ct.LanguageProblem(MODEL, task, sites=["mlp_output"], **options)
    ones = torch.ones(len(ours.space), dtype=ALL)
    at_layer = torch.tensor([float(c.layer == 2) for c in whole.space], dtype=ALL)
    torch.testing.assert_close(ours.effects(ones), whole.effects(at_layer), rtol=0, atol=1e-9)


# ---- by hand: one prompt after another


def log_probs(ids: list[int], answer: list[int]) -> float:
    logits = MODEL.module(torch.tensor([ids + answer])).logits[0].double().log_softmax(-1)
    return float(sum(logits[len(ids) + i - 1, token] for i, token in enumerate(answer)))


def expected(dictionaries: Sequence[Dictionary], z: dict[str, float], pair: ct.PromptPair) -> float:
    """The change of the log-odds of one pair."""
    words = MODEL.require_tokenizer()
    base, other = (words(text)["input_ids"] for text in (pair.base, pair.counterfactual))
    answers = [words(answer)["input_ids"] for answer in pair.answers]
    donor: dict[int, tuple[Tensor, Tensor]] = {}

    def record(layer: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        f = dense(one, read)
        donor[layer] = f, written - f @ one.decoder
        return written

    def blend(layer: int, one: Dictionary, read: Tensor, written: Tensor) -> Tensor:
        n = len(base)
        f = dense(one, read)[:, :n]
        e = written[:, :n] - f @ one.decoder
        g, d = (value[:, :n] for value in donor[layer])
        share = torch.tensor([z.get(f"L{layer}.feature{i}", 0.0) for i in range(FEATURES)], dtype=ALL)
        error = z.get(f"L{layer}.error", 0.0)
        f = f + share * (g - f)
        return torch.cat([f @ one.decoder + e + error * (d - e), written[:, n:]], 1)

    with torch.no_grad():
        plain = [log_probs(base, answer) for answer in answers]
        with by_hand(dictionaries, record):
            MODEL.module(torch.tensor([other]))
        with by_hand(dictionaries, blend):
            changed = [log_probs(base, answer) for answer in answers]
    sign = 1 if pair.target == 0 else -1
    return sign * ((changed[1] - changed[0]) - (plain[1] - plain[0]))


THREE = [
    dictionary("blocks.0.hook_mlp_out", 10, threshold=JUMP),
    dictionary("blocks.1.mlp.hook_in", 11, hook_out="blocks.1.hook_mlp_out", k=6),
    dictionary("blocks.2.hook_attn_out", 12),
]


@cache
def three(**rest: Any) -> ct.LanguageProblem:
    options = {"sites": ["feature", "error"], "holdout": 0, "direction": "maximise"} | rest
    return ct.LanguageProblem(MODEL, TASK, dictionaries=THREE, **options)


@pytest.mark.parametrize("soft", [True, False])
def test_effects_in_several_layers_are_those_of_hooks_by_hand(soft: bool) -> None:
    ours = three()
    draw = torch.Generator().manual_seed(3)
    z = torch.rand(len(ours.space), generator=draw, dtype=ALL)
    z = z if soft else (z > 0.5).to(ALL)
    mask = dict(zip(ours.space.names, z.tolist(), strict=True))
    found = ours.effects(z)
    # what is silent in both runs of every pair is no component: by hand it goes with the error too
    for one, layer in zip(THREE, range(3), strict=True):
        rest = {f"L{layer}.feature{i}": mask[f"L{layer}.error"] for i in range(one.size)}
        mask = rest | mask
    torch.testing.assert_close(found, torch.tensor([expected(THREE, mask, pair) for pair in TASK.pairs]).to(ALL))


def test_the_gradient_through_several_dictionaries_is_that_of_finite_differences() -> None:
    ours = three()
    draw = torch.Generator().manual_seed(5)
    z, along = (torch.rand(len(ours.space), generator=draw, dtype=ALL) for _ in range(2))
    step = 1e-6
    slope = (ours.value(z + step * along) - ours.value(z - step * along)) / (2 * step)
    assert float((ours.gradient(z) * along).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_checkpointing_packing_and_shortcuts_change_nothing() -> None:
    ours = three()
    draw = torch.Generator().manual_seed(6)
    masks = (torch.rand(5, len(ours.space), generator=draw) > 0.7).to(ALL)
    expected_ = torch.stack([ours.effects(mask) for mask in masks])
    torch.testing.assert_close(ours.effects(masks), expected_)
    again = three(checkpointing="on", packing="plain", batch_tokens=20)
    assert again.space.names == ours.space.names
    torch.testing.assert_close(again.effects(masks), expected_)
    torch.testing.assert_close(again.gradient(masks[0]), ours.gradient(masks[0]))


def test_donor_values_without_room_are_computed_anew() -> None:
    ours, tight = three(), three(memory=1)
    z = torch.linspace(0, 1, len(ours.space), dtype=ALL)
    torch.testing.assert_close(tight.effects(z), ours.effects(z))


def test_only_features_that_are_active_where_the_runs_differ_are_components() -> None:
    one = replace(PLACES["MLP"][0], bias=PLACES["MLP"][0].bias.clone())
    one.bias[[3, 17]] = -1e6
    ours = ct.LanguageProblem(MODEL, TASK, dictionaries=[one], holdout=0, direction="maximise")
    seen = set()
    words = MODEL.require_tokenizer()
    for pair in TASK.pairs:
        ids = [words(text)["input_ids"] for text in (pair.base, pair.counterfactual)]
        start = next(i for i in range(len(ids[0])) if ids[0][i] != ids[1][i])

        def note(_: int, own: Dictionary, read: Tensor, written: Tensor, *, start: int = start) -> Tensor:
            seen.update(torch.nonzero(dense(own, read)[0, start:].any(0)).flatten().tolist())
            return written

        with torch.no_grad(), by_hand([one], note):
            for prompt in ids:
                MODEL.module(torch.tensor([prompt]))
    assert ours.space.names == [f"L2.feature{i}" for i in sorted(seen)]
    assert not {3, 17} & seen
    assert ours.features[0].active == len(seen)
    assert f"{len(seen)} of the 40 features" in ours.summary


def test_roles_split_features_and_add_up() -> None:
    roles = problem("MLP", roles=("last", "all"), sites=("feature",))
    plain = problem("MLP", sites=("feature",))
    last = {c.unit for c in roles.space if c.role == "last"}
    assert last < {c.unit for c in plain.space}
    z = torch.tensor([float(c.role == "all") for c in roles.space], dtype=ALL)
    torch.testing.assert_close(roles.effects(z), plain.effects(torch.ones(len(plain.space), dtype=ALL)))
    half = torch.full((len(roles.space),), 0.5, dtype=ALL)  # at the last token 1 - 0.5 * 0.5 of the donor's
    assert not torch.allclose(roles.effects(half), plain.effects(torch.full((len(plain.space),), 0.5, dtype=ALL)))


def test_features_heads_and_layers_share_a_space_with_costs() -> None:
    mixed = problem("MLP", sites=("feature", "head_output", "attention_output"))
    assert {c.site.value for c in mixed.space} == {"feature", "head_output", "attention_output"}
    heads = ct.LanguageProblem(MODEL, TASK, sites=["head_output"], holdout=0.34, direction="maximise")
    z = torch.tensor([float(c.site.value == "head_output") for c in mixed.space], dtype=ALL)
    torch.testing.assert_close(mixed.effects(z), heads.effects(torch.ones(len(heads.space), dtype=ALL)))
    weights = {"feature": 0.1, "head_output": 1.0, "attention_output": 4.0}
    frontier = ct.search.Pursuit(max_size=6, cost_weights=weights)(mixed)
    assert frontier.at(3).weighted_cost(weights) <= 12


@pytest.mark.parametrize("name", sorted(ct.search.SEARCHES))
def test_searches_find_the_features_of_a_planted_effect(name: str) -> None:
    """Every search: a set's effect is the problem's own; the best single feature is known from all single effects."""
    ours = problem("MLP", sites=("feature",))
    sized = {"path": 2} if name == "pgbct" else {"max_size": 2 if name == "exhaustive" else 3}
    frontier = ct.search.named(name, **sized)(ours)
    for size in frontier.sizes:
        chosen = frontier.at(size)
        assert {c.site.value for c in chosen.members} <= {"feature"}
        assert chosen.effect == pytest.approx(float(ours.value(chosen.components)), abs=1e-9)
    if name in ("pursuit", "greedy", "floating", "exhaustive", "topk"):
        singles = ours.value(torch.eye(len(ours.space), dtype=ALL))
        assert frontier.at(1).effect == pytest.approx(float(singles.max()))


def test_keep_mode_restores_what_is_kept() -> None:
    swap, keep = problem("residual"), problem("residual", mode="keep")
    n = len(swap.space)
    kept = torch.zeros(n, dtype=ALL)
    kept[: n // 2] = 1
    changed = swap.effects(1 - kept)
    full = swap.effects(torch.ones(n, dtype=ALL))
    assert float(keep.value(1 - kept)) == pytest.approx(float(1 - changed.mean() / full.mean()))


def test_results_are_judged_measured_and_written(tmp_path: Any) -> None:
    ours = problem("MLP")
    frontier = ct.search.Pursuit(max_size=4)(ours)
    with pytest.warns(TooFewPairs):
        found = ct.evaluate(ours, frontier, level="quick")
    assert found.k in frontier.sizes
    path = tmp_path / "report.html"
    ct.report.write(frontier, path)
    assert "feature" in path.read_text("utf-8")


def test_a_layer_whose_value_features_are_parts_of_is_warned_about() -> None:
    options = {"sites": ["feature", "mlp_output"], "holdout": 0.34, "direction": "maximise"}
    with pytest.warns(
        NestedSites, match=r"L2.mlp holds L2.feature\d+: where both are chosen the value is scaled twice"
    ):
        ct.LanguageProblem(MODEL, TASK, dictionaries=[PLACES["MLP"][0]], donors="scale=0.5", **options)


# ---- bad input


def refused(one: Dictionary | list[Dictionary], **rest: Any) -> Any:
    held = one if isinstance(one, list) else [one]
    return ct.LanguageProblem(MODEL, TASK, dictionaries=held, **rest)


def test_a_dictionary_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"has 48 numbers at blocks.1.hook_mlp_out, and tiny-gpt2 has 32 there"):
        refused(dictionary("blocks.1.hook_mlp_out", 0, width=48))


def test_a_dictionary_of_one_head_must_fit_the_heads() -> None:
    one = dictionary("blocks.1.attn.hook_z", 0, width=8, head=2)
    with pytest.raises(InputError, match="is of head 4, and layer 1 of tiny-gpt2 has 4 heads"):
        refused(replace(one, head=4))
    with pytest.raises(InputError, match=r"where heads cannot be told apart; .* read at hook_z"):
        refused(replace(one, hook="blocks.1.hook_mlp_out", hook_out="blocks.1.hook_mlp_out"))
    with pytest.raises(InputError, match=r"has 32 numbers at blocks.1.attn.hook_z, and tiny-gpt2 has 8 there"):
        refused(dictionary("blocks.1.attn.hook_z", 0, head=2))
    with pytest.raises(InputError, match="both write the head_output of layer 1, which only one can split"):
        refused([one, replace(one, head=1, name="other")])


def test_a_dictionary_of_another_model_is_refused_unless_it_is_said_to_be_the_same() -> None:
    one = replace(PLACES["MLP"][0], model_name="gemma-2-2b")
    with pytest.raises(InputError, match=r"was trained on gemma-2-2b, and the model is tiny-gpt2; .*trained_on="):
        refused(one)
    held = ct.dictionaries.Dictionaries([one], trained_on="google/gemma-2-2b")
    assert held.on(MODEL).dictionaries[0].layer == 2


@pytest.mark.parametrize(
    ("hook", "error", "words"),
    [
        ("blocks.7.hook_mlp_out", InputError, "tiny-gpt2 has 3 layers"),
        ("blocks.0.hook_resid_pre", InputError, "of the embeddings"),
        ("blocks.1.hook_resid_mid", UnsupportedSite, "which is no site; these are"),
        ("transformer.h.1.nothing", UnsupportedSite, "is neither a module"),
    ],
)
def test_a_hook_that_the_model_has_not_is_refused(hook: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        refused(dictionary(hook, 0))


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="its bias holds values that are not finite"):
        replace(PLACES["MLP"][0], bias=torch.full((FEATURES,), torch.nan, dtype=ALL))


def test_a_dictionary_without_an_active_feature_is_refused() -> None:
    with pytest.raises(DegenerateError, match="no feature of random/4 is active on these pairs"):
        refused(replace(PLACES["MLP"][0], bias=torch.full((FEATURES,), -1e6, dtype=ALL)))


def test_features_without_dictionaries_and_dictionaries_without_features_are_refused() -> None:
    with pytest.raises(UnsupportedSite, match="a part of a dictionary: give dictionaries="):
        ct.LanguageProblem(MODEL, TASK, sites=["feature"])
    with pytest.raises(InputError, match="no site is feature or error"):
        refused(PLACES["MLP"][0], sites=["head_output"])


@pytest.mark.filterwarnings("default::cotrace.problem.spaces.PoorDictionary")
def test_a_dictionary_that_does_not_fit_is_warned_about() -> None:
    with pytest.warns(PoorDictionary, match="worse than its mean does"):
        refused(PLACES["MLP"][0], direction="maximise")
