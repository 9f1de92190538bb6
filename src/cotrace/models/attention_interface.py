"""The one module that uses private details of transformers: attention dispatch with its masks, and its experts.

A function registered with ``AttentionInterface`` serves every family that dispatches through it. Its name must be
registered with ``AttentionMaskInterface`` as well: a name that is not gets no mask at all, and attention then sees the
future.

In transformers 5 the chosen experts run in one module, ``experts(hidden, index, weight)``, whose output is linear in
the routing weights: for a token, the sum over its k chosen experts of ``weight * expert(hidden)``. Called once more
with every token repeated k times, each copy with one of its experts, the same module gives each contribution by itself,
at the same number of multiplications.
"""

# ruff: noqa: SLF001

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cotrace.errors import UnsupportedSite

PREFIX = "cotrace_"

Handler = Callable[[nn.Module, "AttentionCall"], tuple[Tensor, Tensor | None]]
After = Callable[[nn.Module, Tensor], Tensor]
"""(attention module, output) -> the output in its stead."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of a family's attention function: its tensors, and how to carry it out as the family would."""

    query: Tensor
    """[row, head, query, d_head]"""
    key: Tensor
    """[row, kv_head, key, d_head]"""
    value: Tensor
    """[row, kv_head, key, d_value]"""
    original: Callable[[], tuple[Tensor, Tensor | None]]
    """Calls the family's own function; gives the output [row, query, head, d_value] and, where eager, the weights."""
    again: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
    """Calls the family's own function once more, with another query, key and value."""
    outermost: bool = True
    """Whether nobody reads the weights that this call gives back."""


Entry = tuple[Handler | None, After | None]
_HANDLERS: ContextVar[tuple[Entry, ...]] = ContextVar("cotrace_attention_handlers", default=())
"""Handlers in force, the first entered first: each sees what the ones before it have made of a call."""
_ROUTED: dict[int, tuple[Any, dict[int, str]]] = {}
"""Configuration -> the implementation that it had, and what each handler in force has put there."""


def _attend(base: str, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The registered function: hands the call to the handlers in force, or carries it out unchanged."""
    own = _implementation(base, module)

    def again(query: Tensor, key: Tensor, value: Tensor) -> Any:
        return own(module, query, key, value, *args, **kwargs)

    entries = _HANDLERS.get()
    handlers = [handler for handler, _ in entries if handler is not None]
    call: Callable[[], Any] = partial(own, module, query, key, value, *args, **kwargs)
    for number, handler in enumerate(handlers, start=1):
        call = partial(handler, module, AttentionCall(query, key, value, call, again, number == len(handlers)))
    found = call()
    for _, after in entries:
        found = found if after is None else (after(module, found[0]), *found[1:])
    return found


def _implementation(base: str, module: nn.Module) -> Callable[..., Any]:
    """Return the function that the family itself would call for this implementation, local overrides included."""
    namespace = vars(sys.modules[type(module).__module__])
    if base != "eager":
        return namespace.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)[base]  # type: ignore[no-any-return]
    if "eager_attention_forward" not in namespace:
        raise UnsupportedSite(
            f"{type(module).__name__} has no eager attention, so no attention_pattern; use head_output"
        )
    return namespace["eager_attention_forward"]  # type: ignore[no-any-return]


def _register(base: str) -> str:
    """Name under which calls to this implementation pass through the handlers; registered on first use."""
    base = base.removeprefix(PREFIX)
    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, partial(_attend, base))
    if name not in ALL_MASK_ATTENTION_FUNCTIONS and base in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module once, as ``model.modules()`` gives them in another order and many times as slowly."""
    found = [model]
    for module in found:  # which grows meanwhile
        found += [part for part in module._modules.values() if part is not None]
    return list(dict.fromkeys(found))


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every configuration object that some module of the model reads, once each."""
    found = {id(c): c for m in modules_of(model) if isinstance(c := vars(m).get("config"), PreTrainedConfig)}
    return list(found.values())


@contextmanager
def attention_handler(
    model: PreTrainedModel, handler: Handler | None, eager: bool = False, after: After | None = None
) -> Iterator[None]:
    """Route every attention call of the model through ``handler``; with ``eager``, calls give their weights as well.

    ``after`` takes the output once all handlers have had the call: what happens to weights happens before it.

    Inside another handler it sees what that one makes of a call. The configurations' implementation names are as
    before once all handlers have been left, in whatever order, also after an exception.
    """
    entry, configs = (handler, after), _configs(model)
    _HANDLERS.set((*_HANDLERS.get(), entry))
    try:
        for config in configs:
            base = config._attn_implementation_internal
            _, names = _ROUTED.setdefault(id(config), (base, {}))
            names[id(entry)] = config._attn_implementation_internal = _register("eager" if eager else base or "eager")
        yield
    finally:
        for config in configs:
            _leave(config, entry)
        _HANDLERS.set(tuple(other for other in _HANDLERS.get() if other is not entry))


def _leave(config: PreTrainedConfig, entry: Entry) -> None:
    if id(config) not in _ROUTED:  # an exception came before this one was reached
        return
    base, names = _ROUTED[id(config)]
    names.pop(id(entry), None)
    config._attn_implementation_internal = next(reversed(names.values()), base)
    if not names:
        del _ROUTED[id(config)]


def implementation_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The attention implementation of each configuration that the model reads, without handlers in force."""
    configs = _configs(model)
    return tuple(str(_ROUTED.get(id(c), (c._attn_implementation_internal,))[0] or "eager") for c in configs)


def rope_limits(model: PreTrainedModel) -> set[tuple[int, bool]]:
    """Lengths of the longest row above which transformers' rotary modules take other frequencies.

    With each: whether all longer rows have the same (longrope), or each length its own (dynamic NTK).
    """
    found: set[tuple[int, bool]] = set()
    for module in _rotaries(model):
        parameters = module.config.rope_parameters
        by_layer = isinstance(module.rope_type, dict)
        for layer, kind in module.rope_type.items() if by_layer else [(None, module.rope_type)]:
            if "dynamic" in kind:
                found.add((int(module.original_max_seq_len), False))
            elif kind == "longrope":
                table = parameters[layer] if by_layer else parameters
                found.add((int(table["original_max_position_embeddings"]), True))
    return found


def _rotaries(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "rope_type") and hasattr(module, "config")]


@contextmanager
def fresh_frequencies(model: nn.Module) -> Iterator[None]:
    """Dynamic RoPE as in a model that has not run yet, and as before afterwards.

    Its frequencies grow with the longest row so far, and are not reset for every shorter one.
    """
    growing = [module for module in _rotaries(model) if "dynamic" in str(module.rope_type)]
    before = [{name: getattr(module, name) for name in _frequency_names(module)} for module in growing]
    try:
        for module in growing:
            _reset(module)
        yield
    finally:
        for module, state in zip(growing, before, strict=True):
            for name, value in state.items():
                setattr(module, name, value)


def _frequency_names(module: Any) -> list[str]:
    return [n for n in (*vars(module), *module._buffers) if n.endswith(("inv_freq", "max_seq_len_cached"))]


def _reset(module: Any) -> None:
    for name in _frequency_names(module):
        if name.endswith("max_seq_len_cached"):
            setattr(module, name, module.original_max_seq_len)
        elif name.endswith("original_inv_freq"):
            target = name.removesuffix("original_inv_freq") + "inv_freq"
            setattr(module, target, getattr(module, name).to(getattr(module, target).device).clone())


def run_experts_eagerly(model: PreTrainedModel) -> None:
    """Let a mixture-of-experts model run its experts one after the other; nothing for other models.

    The default is torch's grouped product, which knows no float64.
    """
    if getattr(model, "_can_set_experts_implementation", bool)():
        model.set_experts_implementation("eager")


def keep_gradients(model: PreTrainedModel) -> None:
    """Keep 4-bit weights on a processor in the form that gradients pass through; nothing for other models.

    bitsandbytes packs them for bfloat16 in the first forward pass without gradients, and from then on returns results
    that are silently cut from the graph (0.50, AVX-512).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def compute_device(model: PreTrainedModel) -> torch.device:
    """Where the model takes its token ids. Weights that accelerate has moved out stand on no device."""
    embedding = model.get_input_embeddings()
    elsewhere = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return torch.device(elsewhere if elsewhere is not None else embedding.weight.device)


def expert_count(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many experts the module runs, judged by how it was called; 0 where it is no such module."""
    try:
        hidden, index, weight = routed_inputs(args, kwargs)
    except ValueError:
        return 0
    fits = index.shape == weight.shape and index.ndim == 2 and hidden.shape[:-1].numel() == len(index)
    matrices = [len(p) for p in module.parameters(recurse=False) if p.ndim == 3]
    count = getattr(module, "num_experts", matrices[0] if matrices else 0)
    return int(count) if fits and matrices else 0


def routed_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, expert indices and routing weights of a call. Raises ValueError for a call of another form."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    floats = [value for value in given if value.is_floating_point()]
    if len(given) != 3 or len(floats) != 2:
        raise ValueError("not a call of routed experts")
    return floats[0], next(value for value in given if not value.is_floating_point()), floats[1]


def _again(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], swaps: Mapping[int, Tensor]) -> Tensor:
    """The same call with other tensors in the places of those that have these ids; hooks do not run again."""
    output = module.forward(
        *(swaps.get(id(value), value) for value in args),
        **{name: swaps.get(id(value), value) for name, value in kwargs.items()},
    )
    assert isinstance(output, Tensor)
    return output


def contributions(
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Float[Tensor, "token d_model"],
    index: Int[Tensor, "token chosen"],
    weight: Float[Tensor, "token chosen"],
    count: int,
) -> Float[Tensor, "token expert d_model"]:
    """Return each expert's addition to the output for each token; zero where it was not chosen."""
    tokens, chosen = index.shape
    alone = run(hidden.repeat_interleave(chosen, 0), index.reshape(-1, 1), weight.reshape(-1, 1))
    at = index.clamp(max=count)  # transformers marks "no expert" with the index behind the last
    table = alone.new_zeros(tokens, count + 1, alone.shape[-1])
    spread = at[..., None].expand(-1, -1, alone.shape[-1])
    return table.scatter_add(1, spread, alone.reshape(tokens, chosen, -1))[:, :count]


def expert_output(module: nn.Module, expert: int) -> Float[Tensor, "d_ff d_model"] | None:
    """Return the output row of each of an expert's neurons; None where the module keeps them in another form."""
    weight = getattr(module, "down_proj", None)
    if not isinstance(weight, Tensor) or weight.ndim != 3 or not weight.is_floating_point():
        return None
    return weight[expert] if getattr(module, "is_transposed", False) else weight[expert].T


def experts_hook(edit: Callable[[Tensor], Tensor], count: int) -> Callable[..., Any]:
    """A forward hook that edits the contributions [row * pos, expert * d_model] and adds their change to the output."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        hidden, index, weight = routed_inputs(args, kwargs)
        flat = hidden.reshape(-1, hidden.shape[-1])

        def run(hidden_: Tensor, index_: Tensor, weight_: Tensor) -> Tensor:
            return _again(module, args, kwargs, {id(hidden): hidden_, id(index): index_, id(weight): weight_})

        own = contributions(run, flat, index, weight, count)
        edited = edit(own.reshape(len(own), -1))
        change = (edited - own.reshape(len(own), -1)).reshape(own.shape).sum(1)
        return output + change.reshape(output.shape).to(output.dtype)

    return hook
