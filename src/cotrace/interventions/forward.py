"""A forward pass under patches: parameters frozen, layers skipped, activations checkpointed where asked.

The library's own acts in training mode only and drops the cache of the prefix. This one runs the layer's own forward
again as it was run: in evaluation mode, parameters frozen, under the same taps, and with a cache that only gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from cotrace.batches import Layout
from cotrace.models import LanguageModel, tapped
from cotrace.models.attention_interface import fresh_frequencies, modules_of
from cotrace.models.hooks import TapList
from cotrace.models.language_model import evaluating


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient inside, so that the backward pass is over activations only."""
    held = (one for part in modules_of(module) for one in part._parameters.values())  # noqa: SLF001
    asking = [one for one in held if one is not None and one.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def recomputing(model: LanguageModel, taps: TapList, eager: bool) -> Iterator[None]:
    """Layers that run inside keep their input only; instances alone are touched, and are as before afterwards."""
    eager = eager or any(place.tap == "pattern" for place, _ in taps)
    with ExitStack() as stack:
        for layer in model.layers:
            inside = [(p, edit) for p, edit in taps if p.layer == layer.index and p.module is not layer.module]
            stack.enter_context(_recomputed(layer.module, _again(model, layer.module, inside, eager)))
        yield


def _again(model: LanguageModel, layer: nn.Module, taps: TapList, eager: bool) -> Callable[[], Any]:
    """The surroundings of the second run, which comes when those of the first are gone."""

    @contextmanager
    def surroundings() -> Iterator[None]:
        with evaluating(layer), frozen(layer), fresh_frequencies(layer), tapped(model.module, taps, eager):
            yield

    return lambda: (nullcontext(), surroundings())


def _recomputed(module: nn.Module, context: Callable[[], Any]) -> AbstractContextManager[None]:
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(inner, *args, use_reentrant=False, preserve_rng_state=False, context_fn=context, **kwargs)

    return _forward(module, forward)


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module does this in place of its forward. Only the instance is touched, and it is as before afterwards."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@dataclass(frozen=True, eq=False)
class Entry:
    """Start of a run: a layer, and the residual stream that enters it."""

    start: int
    hidden: Tensor
    """[row, pos, d_model]"""


@dataclass(eq=False)
class LayerInputs:
    """Record of a reference run: the residual stream that entered each of the layers asked for."""

    wanted: Collection[int]
    entries: dict[int, Entry] = field(default_factory=dict)
    plain: bool = True
    """Whether every layer gave a single tensor, so that a layer can be passed by."""


@contextmanager
def noting(model: LanguageModel, layer_inputs: LayerInputs) -> Iterator[None]:
    """Fill them during the forward pass inside."""
    with ExitStack() as stack:
        for layer in model.layers:
            stack.callback(layer.module.register_forward_hook(_note_form(layer_inputs)).remove)
            if layer.index in layer_inputs.wanted:
                hook = _note_hidden(layer_inputs, layer.index)
                stack.callback(layer.module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _note_form(layer_inputs: LayerInputs) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            layer_inputs.plain = False

    return hook


def _note_hidden(layer_inputs: LayerInputs, index: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer_inputs.entries[index] = Entry(index, args[0] if args else kwargs["hidden_states"])

    return hook


@contextmanager
def entering(model: LanguageModel, entry: Entry, copies: int) -> Iterator[None]:
    """Layers below the entry are passed by, and that layer is given the entry's hidden states, one for each copy."""

    def replace_hidden(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = entry.hidden.repeat(copies, 1, 1)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    with ExitStack() as stack:
        for layer in model.layers[: entry.start]:
            stack.enter_context(_forward(layer.module, _unchanged))
        at = model.layers[entry.start].module
        stack.callback(at.register_forward_pre_hook(replace_hidden, with_kwargs=True).remove)
        yield


def _unchanged(*args: Any, **kwargs: Any) -> Any:
    """Return the hidden states as they are, in place of a layer that is passed by."""
    return args[0] if args else kwargs["hidden_states"]


def forward(
    model: LanguageModel,
    layout: Layout,
    taps: TapList,
    copies: int = 1,
    eager: bool = False,
    cache: DynamicCache | None = None,
    entry: Entry | None = None,
    layer_inputs: LayerInputs | None = None,
    recompute: bool = False,
) -> Float[Tensor, "copy read vocab"]:
    """Logits at ``layout.read_at`` of each of ``copies`` runs side by side; each tap sees [copies * row, ...].

    ``cache`` holds the keys and values of the layout's kept prefixes, and takes those of its rows. With ``entry`` the
    layers below it are not computed; ``layer_inputs`` are filled for such runs to come. With ``recompute`` the layers'
    activations are computed again in the backward pass and not kept for it.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluating(model.module))
        stack.enter_context(frozen(model.module))
        if model.growing_frequencies:
            stack.enter_context(fresh_frequencies(model.module))
        stack.enter_context(tapped(model.module, taps, eager))
        if layer_inputs is not None:
            stack.enter_context(noting(model, layer_inputs))
        if entry is not None:
            stack.enter_context(entering(model, entry, copies))
        if recompute:
            stack.enter_context(recomputing(model, taps, eager))
        gathered = stack.enter_context(_read_only(model, layout, copies))
        arguments = inputs(model, layout, copies)
        if cache is not None:
            arguments["past_key_values"] = cache
        logits = model.module(**arguments, use_cache=cache is not None).logits
    return logits if gathered else _gather(logits, layout, copies)


def inputs(model: LanguageModel, layout: Layout, copies: int) -> dict[str, Any]:
    """Keyword inputs of the model for a layout; rows are repeated copy by copy."""
    device = model.device
    ids = layout.input_ids.to(device).repeat(copies, 1)
    if not layout.masked:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # nothing real stands behind the padding
    hidden = ~layout.allowed()
    mask = torch.zeros(hidden.shape, dtype=model.dtype).masked_fill_(hidden, torch.finfo(model.dtype).min)
    return {
        "input_ids": ids,
        "position_ids": layout.position_ids.to(device).repeat(copies, 1),
        "attention_mask": mask[:, None].to(device).repeat(copies, 1, 1, 1),
    }


@contextmanager
def _read_only(model: LanguageModel, layout: Layout, copies: int) -> Iterator[list[bool]]:
    """Apply the output head only at the positions that are read. Gives a list that is filled once it happened."""
    head = model.module.get_output_embeddings()
    happened: list[bool] = []

    def narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        happened.append(True)
        return (_gather(args[0], layout, copies), *args[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield happened
    finally:
        handle.remove()


def _gather(values: Float[Tensor, "rows pos f"], layout: Layout, copies: int) -> Float[Tensor, "copy read f"]:
    flat = values.reshape(copies, layout.rows * layout.length, values.shape[-1])
    return flat.index_select(1, layout.read_at.to(values.device))
