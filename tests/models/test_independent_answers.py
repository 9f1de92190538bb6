"""Every site of eight families against patching written out by hand: plain transformers, hooks on named modules.

The references know each family's module names, weights and formulas; the library knows none of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cotrace.components import Site
from cotrace.models import LanguageModel, wrap
from cotrace.problem import LanguageProblem
from tests import tiny
from tests.families import D_HEAD, HEADS, KV_HEADS, tiny_model

LAYER = 0
Z = {1: 1.0, 2: 0.3}
"""Units that are patched, and how far."""


@dataclass(frozen=True)
class Names:
    layers: str
    attention: str
    projection: str
    mlp: str
    down: str | None
    value: str | None
    groups: int = HEADS


LLAMA = Names("model.layers", "self_attn", "self_attn.o_proj", "mlp", "mlp.down_proj", "self_attn.v_proj", KV_HEADS)
ROUTED = Names("model.layers", "self_attn", "self_attn.o_proj", "mlp", None, "self_attn.v_proj", KV_HEADS)
NAMES = {
    "gpt2": Names("transformer.h", "attn", "attn.c_proj", "mlp", "mlp.c_proj", "attn.c_attn"),
    "llama": LLAMA,
    "qwen3": LLAMA,
    "gemma2": LLAMA,
    "gpt_neox": Names(
        "gpt_neox.layers",
        "attention",
        "attention.dense",
        "mlp",
        "mlp.dense_4h_to_h",
        "attention.query_key_value",
    ),
    "falcon": Names("transformer.h", "self_attention", "self_attention.dense", "mlp", "mlp.dense_4h_to_h", None),
    "mixtral": ROUTED,
    "gpt_oss": ROUTED,
}


@cache
def model(family: str) -> LanguageModel:
    module = tiny_model(family).double()
    if family in ("mixtral", "gpt_oss"):
        module.set_experts_implementation("eager")  # torch's grouped product has no float64
    return wrap(module, tiny.tokenizer(), name=family)


def part(family: str, name: str | None) -> nn.Module:
    layer = model(family).module.get_submodule(NAMES[family].layers)[LAYER]
    return layer.get_submodule(name) if name else layer


def ids(text: str) -> Tensor:
    return torch.tensor([model("gpt2").require_tokenizer()(text)["input_ids"]])


def answers_log_p(family: str, prompt: Tensor, pair: Any) -> list[float]:
    logits = model(family).module(input_ids=prompt, use_cache=False).logits[0, -1].log_softmax(-1)
    return [logits[ids(answer)[0, 0]].item() for answer in pair.answers]


Change = Callable[[Tensor], Tensor]


@contextmanager
def changed(module: nn.Module, change: Change, at: str) -> Iterator[None]:
    """The module's first input or output goes through ``change``."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_pre_hook(before) if at == "input" else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def seen(family: str, module: nn.Module, at: str, prompt: Tensor) -> Tensor:
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.clone())
        return value

    with changed(module, keep, at):
        model(family).module(input_ids=prompt, use_cache=False)
    return kept[0]


def patched(family: str, module: nn.Module, at: str, width: int, pair: Any) -> list[float]:
    """Blend the units of ``Z``, each ``width`` features wide, with the donor prompt's; width 0: all features at 0.3."""
    donor = seen(family, module, at, ids(pair.counterfactual))

    def blend(own: Tensor) -> Tensor:
        mixed = own.clone()
        if not width:
            return 0.7 * own + 0.3 * donor
        for unit, z in Z.items():
            at_unit = slice(unit * width, (unit + 1) * width)
            mixed[..., at_unit] = (1 - z) * own[..., at_unit] + z * donor[..., at_unit]
        return mixed

    with changed(module, blend, at):
        return answers_log_p(family, ids(pair.base), pair)


def by_engine(family: str, site: Site, units: dict[int, float]) -> tuple[Tensor, Any]:
    task = tiny.task(4, answer_tokens=(1, 1))
    problem = LanguageProblem(model(family), task, sites=[site], holdout=0)
    z = torch.zeros(len(problem.space), dtype=torch.float64)
    for i, component in enumerate(problem.space):
        if component.layer == LAYER and (component.unit or 0) in units:
            z[i] = units[component.unit or 0]
    return problem.scores(z), task.pairs


def compare(family: str, site: Site, reference: Callable[[Any], list[float]], units: dict[int, float]) -> None:
    scores, pairs = by_engine(family, site, units)
    expected = torch.tensor([reference(pair) for pair in pairs], dtype=torch.float64)
    plain = torch.tensor([answers_log_p(family, ids(pair.base), pair) for pair in pairs], dtype=torch.float64)
    assert (expected - plain).abs().max() > 1e-4, "the reference patch does something"
    assert torch.allclose(scores, expected, atol=2e-6)


@pytest.mark.parametrize("family", sorted(NAMES))
@torch.no_grad()
def test_heads(family: str) -> None:
    module = part(family, NAMES[family].projection)
    compare(family, Site.HEAD_OUTPUT, lambda pair: patched(family, module, "input", D_HEAD, pair), Z)


@pytest.mark.parametrize("family", [family for family, names in NAMES.items() if names.groups < HEADS])
@torch.no_grad()
def test_key_value_groups(family: str) -> None:
    """Group g holds the query heads that read the g-th key and value head: with 4 on 2, heads 2g and 2g + 1."""
    module, width = part(family, NAMES[family].projection), D_HEAD * HEADS // KV_HEADS

    def reference(pair: Any) -> list[float]:
        donor = seen(family, module, "input", ids(pair.counterfactual))
        with changed(module, lambda own: torch.cat([own[..., :width], donor[..., width:]], -1), "input"):
            return answers_log_p(family, ids(pair.base), pair)

    compare(family, Site.KV_GROUP, reference, {1: 1.0})


@pytest.mark.parametrize("family", [family for family, names in NAMES.items() if names.down])
@torch.no_grad()
def test_neurons(family: str) -> None:
    module = part(family, NAMES[family].down)
    compare(family, Site.MLP_NEURON, lambda pair: patched(family, module, "input", 1, pair), Z)


BEHIND_NORMS = {"gemma2": ("post_attention_layernorm", "post_feedforward_layernorm")}
"""Where a norm stands between the part and the residual stream."""


@pytest.mark.parametrize("site", [Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT, Site.MLP_COORDINATE, Site.RESIDUAL])
@pytest.mark.parametrize("family", sorted(NAMES))
@torch.no_grad()
def test_outputs(family: str, site: Site) -> None:
    names = NAMES[family]
    attention, mlp = BEHIND_NORMS.get(family, (names.attention, names.mlp))
    name = {Site.ATTENTION_OUTPUT: attention, Site.RESIDUAL: None}.get(site, mlp)
    width, units = (1, Z) if site is Site.MLP_COORDINATE else (0, {0: 0.3})
    compare(family, site, lambda pair: patched(family, part(family, name), "output", width, pair), units)


@pytest.mark.parametrize("family", [family for family, names in NAMES.items() if names.value])
@torch.no_grad()
def test_patterns(family: str) -> None:
    """Weights from ``output_attentions``; the head's output changes by the change of its weights times its values."""
    module, names = model(family).module, NAMES[family]
    before = module.config._attn_implementation

    def weights(prompt: Tensor) -> Tensor:
        module.set_attn_implementation("eager")
        try:
            found: Tensor = module(input_ids=prompt, output_attentions=True, use_cache=False).attentions[LAYER][0]
        finally:
            module.set_attn_implementation(before)
        return found

    def reference(pair: Any) -> list[float]:
        own, donor = weights(ids(pair.base)), weights(ids(pair.counterfactual))
        value = values(family, seen(family, part(family, names.value), "output", ids(pair.base)))

        def change(heads: Tensor) -> Tensor:
            mixed = heads.clone()
            for head, z in Z.items():
                mixed[..., head * D_HEAD : (head + 1) * D_HEAD] += z * (donor[head] - own[head]) @ value[head]
            return mixed

        with changed(part(family, names.projection), change, "input"):
            return answers_log_p(family, ids(pair.base), pair)

    compare(family, Site.ATTENTION_PATTERN, reference, Z)


def values(family: str, made: Tensor) -> Tensor:
    """The values that each query head reads, [head, pos, d_head], from what the family's projection gives."""
    if family == "gpt2":
        return made[0, :, 2 * HEADS * D_HEAD :].unflatten(-1, (HEADS, D_HEAD)).transpose(0, 1)
    if family == "gpt_neox":
        return made[0].unflatten(-1, (HEADS, 3, D_HEAD))[:, :, 2].transpose(0, 1)
    grouped = made[0].unflatten(-1, (KV_HEADS, D_HEAD)).transpose(0, 1)
    return grouped.repeat_interleave(HEADS // KV_HEADS, 0)


def expert_alone(family: str, experts: nn.Module, expert: int, hidden: Tensor) -> Tensor:
    """One expert's MLP from its weights, by the family's formula."""
    both = experts.gate_up_proj[expert]
    if family == "mixtral":
        gate, up = (hidden @ both.T).chunk(2, -1)
        return (nn.functional.silu(gate) * up) @ experts.down_proj[expert].T
    made = hidden @ both + experts.gate_up_proj_bias[expert]
    gate, up = made[..., ::2].clamp(max=experts.limit), made[..., 1::2].clamp(-experts.limit, experts.limit)
    inner = (up + 1) * gate * torch.sigmoid(experts.alpha * gate)
    return inner @ experts.down_proj[expert] + experts.down_proj_bias[expert]


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@torch.no_grad()
def test_experts(family: str) -> None:
    experts = part(family, "mlp.experts")

    def contributions(prompt: Tensor) -> tuple[Tensor, Tensor]:
        calls: list[tuple[Tensor, Tensor, Tensor]] = []
        handle = experts.register_forward_hook(
            lambda _, args, kwargs, __: calls.append((*args, *kwargs.values())), with_kwargs=True
        )
        model(family).module(input_ids=prompt, use_cache=False)
        handle.remove()
        hidden, index, weight = calls[0]
        share = {e: (weight * (index == e)).sum(-1, keepdim=True) for e in Z}
        return hidden, torch.stack([share[e] * expert_alone(family, experts, e, hidden) for e in Z])

    def reference(pair: Any) -> list[float]:
        own, donor = (contributions(ids(text))[1] for text in (pair.base, pair.counterfactual))
        shift = sum(z * (donor[i] - own[i]) for i, z in enumerate(Z.values()))
        with changed(experts, lambda output: output + shift.reshape(output.shape), "output"):
            return answers_log_p(family, ids(pair.base), pair)

    compare(family, Site.EXPERT, reference, Z)
