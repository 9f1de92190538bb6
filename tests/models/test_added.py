"""What is added to the residual stream, against plain transformers with hooks that name the modules by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import cotrace as ct
from cotrace.components import Site
from cotrace.editing import folded
from cotrace.errors import UnsupportedSite
from cotrace.models import LanguageModel, wrap
from cotrace.problem import LanguageProblem
from cotrace.prompts import PromptPair
from cotrace.selfcheck import check
from tests import tiny
from tests.families import tiny_config, tiny_model

ADDED = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "granite": ("self_attn", "mlp"),
    "cohere": ("self_attn", "mlp"),
}
"""Family -> the parts of a decoder layer whose outputs its forward adds to the residual stream, by reading it."""
MULTIPLIER = 0.22
PAIRS = tiny.task(3, answer_tokens=(1, 1))
Change = Callable[[torch.Tensor], torch.Tensor]


@cache
def model(family: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A random model; Granite's with the multiplier of its small models."""
    module = tiny_model(family)
    if family == "granite":
        config = tiny_config(family)
        config.residual_multiplier = MULTIPLIER
        weights = module.state_dict()
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        module.load_state_dict(weights)
    return wrap(module.to(dtype), tiny.tokenizer(), name=family)


def part(some: LanguageModel, layer: int, site: str) -> torch.nn.Module:
    """The module whose output is added, by its name."""
    name = ADDED[some.name][site != "attn"]
    return some.module.model.layers[layer].get_submodule(name)


@torch.no_grad()
def plain(some: LanguageModel, prompt: str, changes: Mapping[torch.nn.Module, Change]) -> torch.Tensor:
    """Log-probabilities behind a prompt, with outputs of some modules replaced by plain hooks."""

    def hook_of(change: Change) -> Callable[..., object]:
        def hook(module: torch.nn.Module, args: object, output: object) -> object:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)  # type: ignore[arg-type]

        return hook

    handles = [module.register_forward_hook(hook_of(change)) for module, change in changes.items()]
    ids = torch.tensor([some.require_tokenizer()(prompt)["input_ids"]])
    try:
        logits = some.module(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits[0, -1].log_softmax(-1)


def value(some: LanguageModel, prompt: str, module: torch.nn.Module) -> torch.Tensor:
    """What a module gives on a prompt."""
    kept: list[torch.Tensor] = []
    plain(some, prompt, {module: lambda own: kept.append(own.clone()) or own})
    return kept[0]


def expected(some: LanguageModel, changes: Callable[[PromptPair], Mapping[torch.nn.Module, Change]]) -> torch.Tensor:
    """Answer scores of every pair under the changes that a pair asks for."""
    rows = []
    for pair in PAIRS.pairs:
        logits = plain(some, pair.base, changes(pair))
        rows.append(logits[[some.require_tokenizer()(answer)["input_ids"][0] for answer in pair.answers]])
    return torch.stack(rows)


@pytest.mark.parametrize("site", ["attn", "mlp"])
@pytest.mark.parametrize("family", ADDED)
def test_a_swap_is_a_plain_hook_on_what_is_added(family: str, site: str) -> None:
    some = model(family)
    where = part(some, 1, site)
    problem = LanguageProblem(some, PAIRS, sites=["attention_output", "mlp_output"], holdout=0)

    def changes(pair: PromptPair) -> Mapping[torch.nn.Module, Change]:
        donor = value(some, pair.counterfactual, where)
        return {where: lambda own: donor}

    swapped = expected(some, changes)
    assert (swapped - expected(some, lambda pair: {})).abs().max() > 1e-4
    torch.testing.assert_close(problem.scores([f"L1.{site}"]), swapped, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ADDED)
@pytest.mark.parametrize("factor", [0.2, -0.7])
def test_a_scale_scales_what_is_added(family: str, factor: float) -> None:
    """Before a norm, 0.2 would do nothing and -0.7 would turn the sign only."""
    some = model(family)
    problem = LanguageProblem(
        some, PAIRS, sites=["attention_output", "mlp_output"], donors=ct.donors.Scale(factor), holdout=0
    )
    changes = {part(some, 0, "attn"): lambda own: factor * own, part(some, 1, "mlp"): lambda own: factor * own}
    scaled = expected(some, lambda pair: changes)
    assert (scaled - expected(some, lambda pair: {})).abs().max() > 1e-3
    torch.testing.assert_close(problem.scores(["L0.attn", "L1.mlp"]), scaled, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ADDED)
def test_coordinates_are_those_of_what_is_added(family: str) -> None:
    some = model(family)
    problem = LanguageProblem(some, PAIRS, sites=["mlp_coordinate"], holdout=0)
    where, chosen = part(some, 0, "mlp"), [3, 17, 30]

    def changes(pair: PromptPair) -> Mapping[torch.nn.Module, Change]:
        donor = value(some, pair.counterfactual, where)
        return {where: lambda own: own.index_copy(-1, torch.tensor(chosen), donor[..., chosen])}

    scores = problem.scores([f"L0.coord{i}" for i in chosen])
    torch.testing.assert_close(scores, expected(some, changes), rtol=0, atol=1e-9)


@pytest.mark.parametrize("donor", ["zero", "scale=0.2", "scale=-0.5"])
@pytest.mark.parametrize("family", ADDED)
def test_a_fold_gives_what_the_hooks_give(family: str, donor: str) -> None:
    some = model(family, torch.float32)
    factor = 0.0 if donor == "zero" else float(donor.removeprefix("scale="))
    edited = folded(some, ct.Selection.parse(["L0.attn", "L1.mlp", "L0.coord5"]), donor)
    scale = torch.ones(32)
    scale[5] = factor
    changes = {
        part(some, 0, "attn"): lambda own: factor * own,
        part(some, 1, "mlp"): lambda own: factor * own,
        part(some, 0, "mlp"): lambda own: scale * own,
    }
    for pair in PAIRS.pairs:
        torch.testing.assert_close(plain(edited, pair.base, {}), plain(some, pair.base, changes), rtol=0, atol=1e-5)


def test_a_norm_without_a_bias_holds_no_mean() -> None:
    with pytest.raises(UnsupportedSite, match=r"its norm has no bias.*use zero or scale"):
        folded(model("gemma2", torch.float32), ct.Selection.parse(["L0.mlp"]), "mean=task", reference=PAIRS)


def test_a_vector_is_in_units_of_what_is_added() -> None:
    """Granite multiplies the MLP's output: the vector v is what the stream gains, so the module gives v / 0.22."""
    some, vector = model("granite"), torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source = ct.donors.Vector(values={"L1.mlp": vector})
    problem = LanguageProblem(some, PAIRS, sites=ct.ComponentSpace.parse(["L1.mlp"]), donors=source, holdout=0)
    put = expected(some, lambda pair: {part(some, 1, "mlp"): (vector / MULTIPLIER).expand_as})
    torch.testing.assert_close(problem.scores(["L1.mlp"]), put, rtol=0, atol=1e-6)
    assert some.layers[1].place(Site.MLP_OUTPUT).factor == pytest.approx(MULTIPLIER, rel=1e-6)


@pytest.mark.parametrize("family", ["gemma2", "glm4", "granite"])
def test_found_in_half_precision_too(family: str) -> None:
    some = wrap(copy.deepcopy(model(family).module).to(torch.bfloat16), name=family)
    assert [type(some.layers[1].place(s).module).__name__ for s in (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT)] == [
        type(part(model(family), 1, site)).__name__ for site in ("attn", "mlp")
    ]


def test_the_check_measures_the_sum_and_what_is_not_added_is_no_site() -> None:
    """Granite's hybrids add a shared MLP beside the routed one; Zaya weighs the sum feature by feature."""
    names = [finding.name for finding in check(model("gemma2")).findings]
    assert names.count("the stream behind a layer is the one before it plus the parts") == 3
    for family, site in (("granitemoehybrid", Site.MLP_OUTPUT), ("zaya", Site.ATTENTION_OUTPUT)):
        some = wrap(tiny_model(family), name=family)
        assert site not in some.sites
        assert "added to the residual stream" in some.layers[1].missing[site]


@pytest.mark.parametrize(
    ("names", "mode", "donors", "words"),
    [
        (["L1.head0", "L1.resid"], "keep", "counterfactual", "L1.head0 has effect 0 unless L1.resid is kept"),
        (["L0.coord3", "L0.mlp"], "keep", "counterfactual", "L0.coord3 has effect 0 unless L0.mlp is kept"),
        (["L0.head1@last", "L0.head1"], "keep", "counterfactual", "L0.head1@last has effect 0 unless L0.head1 is kept"),
        (["L0.coord3", "L0.mlp"], "swap", "scale=0.2", "square of the factor"),
    ],
)
def test_components_that_hold_one_another_are_warned_about(
    names: list[str], mode: str, donors: str, words: str
) -> None:
    space = ct.ComponentSpace.parse(names)
    with pytest.warns(UserWarning, match=words):
        problem = LanguageProblem(tiny.model("llama"), PAIRS, sites=space, mode=mode, donors=donors, holdout=0)
    if mode == "keep":
        assert problem.effects(names[:1]).abs().max() < 1e-9, "the sentence is true"
    else:
        where = problem.model.module.model.layers[0].mlp
        factors = torch.full((32,), 0.2, dtype=torch.float64).index_fill(0, torch.tensor([3]), 0.04)
        scores = expected(problem.model, lambda pair: {where: lambda own: own * factors})
        torch.testing.assert_close(problem.scores(names), scores, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_no_word_where_nothing_holds_another() -> None:
    names = ["L0.head0", "L0.mlp", "L1.attn", "L1.neuron3"]
    space = ct.ComponentSpace.parse(names)
    LanguageProblem(tiny.model("llama"), PAIRS, sites=space, mode="keep", holdout=0)


@pytest.mark.parametrize("added", [True, False])
def test_the_transformer_lens_module_refuses_hooks_on_what_is_not_added(added: bool) -> None:
    """A model of recorded tensors: the stream gains 0.22 times both hooks, or what a norm makes of them."""
    source = files("cotrace.interchange").joinpath("transformer_lens_snippet.txt").read_text("utf-8")
    body = source[source.index("def check_added") : source.index("@torch.no_grad()\ndef answer_scores")]
    space: dict[str, Any] = {"torch": torch}
    exec(body, space)  # the template as it ships
    attn, mlp, before = torch.randn(3, 1, 7, 16, generator=torch.Generator().manual_seed(0)).unbind()
    gain = 0.22 * (attn + mlp) if added else torch.nn.functional.layer_norm(attn, (16,)) + mlp * mlp
    stored = {"attn_out": attn, "mlp_out": mlp, "resid_pre": before, "resid_post": before + gain}
    cache = {f"blocks.0.hook_{name}": tensor for name, tensor in stored.items()}
    model_ = SimpleNamespace(run_with_cache=lambda tokens, names_filter: (None, cache))
    with nullcontext() if added else pytest.raises(ValueError, match="not what is added"):
        space["check_added"](model_, torch.ones(1, 7), ["blocks.0.hook_mlp_out"])
