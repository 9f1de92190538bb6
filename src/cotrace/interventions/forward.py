"""A forward pass under patches, and the scores that it gives: layers skipped, prefixes kept, activations checkpointed.

The library's own checkpointing acts in training mode only and drops the cache of the prefix. This one runs the layer's
own forward again as it was run: in evaluation mode, parameters frozen, under the same edits, and with a cache that only
gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from cotrace.batches import EncodedPair, Layout, Packing, prefix_layouts
from cotrace.interventions.storage import Keep, in_memory
from cotrace.models import LanguageModel, hooked
from cotrace.models.attention_interface import fresh_frequencies
from cotrace.models.hooks import Edits
from cotrace.models.language_model import evaluating


@contextmanager
def recomputing(model: LanguageModel, edits: Edits, eager: bool) -> Iterator[None]:
    """Layers that run inside keep their input only; instances alone are touched, and are as before afterwards."""
    eager = eager or any(place.side == "pattern" for place, _ in edits)
    with ExitStack() as stack:
        for layer in model.layers:
            inside = [(p, edit) for p, edit in edits if p.layer == layer.index and p.module is not layer.module]
            stack.enter_context(_recomputed(layer.module, _again(model, layer.module, inside, eager)))
        yield


def _again(model: LanguageModel, layer: nn.Module, edits: Edits, eager: bool) -> Callable[[], Any]:
    """The surroundings of the second run, which comes when those of the first are gone."""

    @contextmanager
    def surroundings() -> Iterator[None]:
        with evaluating(layer), fresh_frequencies(layer), hooked(model.module, edits, eager):
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


@contextmanager
def noting(model: LanguageModel, layer_inputs: LayerInputs) -> Iterator[None]:
    """Fill them during the forward pass inside."""

    def note(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer_inputs.entries[index] = Entry(index, args[0] if args else kwargs["hidden_states"])

    with ExitStack() as stack:
        for layer in (one for one in model.layers if one.index in layer_inputs.wanted):
            hook = partial(note, layer.index)
            stack.callback(layer.module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


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
    edits: Edits,
    copies: int = 1,
    eager: bool = False,
    cache: DynamicCache | None = None,
    entry: Entry | None = None,
    layer_inputs: LayerInputs | None = None,
    recompute: bool = False,
) -> Float[Tensor, "copy read vocab"]:
    """Logits at ``layout.read_at`` of each of ``copies`` runs side by side; each edit sees [copies * row, ...].

    ``cache`` holds the keys and values of the layout's kept prefixes, and takes those of its rows. With ``entry`` the
    layers below it are not computed; ``layer_inputs`` are filled for such runs to come. With ``recompute`` the layers'
    activations are computed again in the backward pass and not kept for it.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluating(model.module))
        if model.growing_frequencies:
            stack.enter_context(fresh_frequencies(model.module))
        stack.enter_context(hooked(model.module, edits, eager))
        if layer_inputs is not None:
            stack.enter_context(noting(model, layer_inputs))
        if entry is not None:
            stack.enter_context(entering(model, entry, copies))
        if recompute:
            stack.enter_context(recomputing(model, edits, eager))
        read: list[bool] = []

        def narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            read.append(True)
            return (_gather(args[0], layout, copies), *args[1:])

        stack.callback(model.module.get_output_embeddings().register_forward_pre_hook(narrow).remove)
        arguments = inputs(model, layout, copies)
        if cache is not None:
            arguments["past_key_values"] = cache
        logits = model.module(**arguments, use_cache=cache is not None).logits
    return logits if read else _gather(logits, layout, copies)


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


def _gather(values: Float[Tensor, "rows pos f"], layout: Layout, copies: int) -> Float[Tensor, "copy read f"]:
    """The values at the positions that are read: the output head is applied at no others."""
    flat = values.reshape(copies, layout.rows * layout.length, values.shape[-1])
    return flat.index_select(1, layout.read_at.to(values.device))


Logits = Float[Tensor, "mask read token"]


def answer_lengths(pairs: Sequence[EncodedPair], columns: int | None = None) -> Int[Tensor, "example answer"]:
    """Tokens of each answer, 1 in the columns that an example leaves empty."""
    columns = columns or max(len(pair.answers) for pair in pairs)
    rows = [[len(a) for a in pair.answers] + [1] * (columns - len(pair.answers)) for pair in pairs]
    return torch.tensor(rows)


def answer_scores(logits: Logits, layout: Layout) -> Float[Tensor, "mask example answer"]:
    """log p of each scored token, summed over its answer."""
    normaliser = torch.logsumexp(logits, -1)
    read, token = layout.scored_read.to(logits.device), layout.scored_token.to(logits.device)
    scored = logits.flatten(1).index_select(1, read * logits.shape[-1] + token)
    log_p = (scored - normaliser.index_select(1, read)).cpu()
    cells = log_p.new_zeros(len(logits), len(layout.examples) * layout.answers)
    return cells.index_add(1, layout.scored_cell, log_p).reshape(len(logits), -1, layout.answers)


def next_logits(logits: Logits, layout: Layout) -> Float[Tensor, "mask example token"]:
    """The logits at each example's last prompt position, from which the first token of its first answer is read."""
    example = (layout.scored_cell // layout.answers).numpy()
    first = torch.from_numpy(np.unique(example, return_index=True)[1])
    return logits[:, layout.scored_read[first].to(logits.device)].cpu()


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of every kept token, for each layer, token by token without padding."""

    keys: Sequence[Float[Tensor, "token kv_head d_head"]]
    values: Sequence[Float[Tensor, "token kv_head d_value"]]
    devices: Sequence[torch.device]
    """Device of each layer; the values may be kept elsewhere."""
    _last: list[tuple[Layout, int, DynamicCache]] = field(default_factory=list, repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that they take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def for_layout(self, layout: Layout, copies: int) -> DynamicCache:
        """A cache for forward passes over a layout, each copy of the rows with the same prefix.

        The one made last is kept: masks and steps come to one layout again and again, and passes only read it.
        """
        if self._last and self._last[0][:2] == (layout, copies):
            return self._last[0][2]
        self._last.clear()
        cache, index = KeptCache(), layout.cached.clamp(min=0)
        for i, (device, *both) in enumerate(zip(self.devices, self.keys, self.values, strict=True)):
            rows = (kept[index.to(kept.device)].transpose(1, 2).repeat(copies, 1, 1, 1).to(device) for kept in both)
            DynamicCache.update(cache, *rows, i)
        self._last.append((layout, copies, cache))
        return cache


class DelayedPrefixes:
    """Prefixes whose keys and values are computed when they are first asked for; where no run is, never."""

    def __init__(self, make: Callable[[], PrefixCache | None]) -> None:
        self._make, self._made = make, list[PrefixCache | None]()

    def for_layout(self, layout: Layout, copies: int) -> DynamicCache | None:
        """Return the prefix as a ``PrefixCache`` does; None where there are no prefixes."""
        if not self._made:
            self._made.append(self._make())
        made = self._made[0]
        return None if made is None else made.for_layout(layout, copies)


class KeptCache(DynamicCache):  # type: ignore[misc]
    """A cache of prefixes that only gives: a layer may run again in the backward pass and finds the same.

    It does not hold the keys and values of the rows either, which would live until the pass is over.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and rows together."""
        kept = self.layers[layer_idx]
        return torch.cat([kept.keys, key_states], 2), torch.cat([kept.values, value_states], 2)


@torch.no_grad()
def keep_prefixes(
    model: LanguageModel,
    pairs: Sequence[EncodedPair],
    packing: Packing,
    keep: Keep = in_memory,
    layouts: Sequence[Layout] | None = None,
) -> PrefixCache | None:
    """Run the pairs' prefixes and keep their keys and values; None where there are none. Raises NoRoom.

    ``layouts``: the batches of those runs, where they were cut for more pairs than these.
    """
    total = sum(pair.prefix for pair in pairs)
    stores: list[tuple[Tensor, Tensor]] = []
    devices: list[torch.device] = []
    for layout in prefix_layouts(pairs, packing) if layouts is None else layouts:
        cache = DynamicCache()
        forward(model, layout, [], cache=cache)
        if not stores:
            stores = [(_empty(layer.keys, total, keep), _empty(layer.values, total, keep)) for layer in cache.layers]
            devices = [layer.keys.device for layer in cache.layers]
        source = layout.source.flatten()
        real = torch.nonzero(source >= 0).flatten()
        for (keys, values), layer in zip(stores, cache.layers, strict=True):
            for store, found in ((keys, layer.keys), (values, layer.values)):
                flat = found.transpose(1, 2).flatten(0, 1)
                store[source[real].to(store.device)] = flat[real.to(flat.device)].to(store.device)
    if not stores:
        return None
    return PrefixCache([pair[0] for pair in stores], [pair[1] for pair in stores], devices)


def _empty(like: Tensor, tokens: int, keep: Keep) -> Tensor:
    """[row, head, pos, d] -> room for [token, head, d]."""
    return keep(like, (tokens, like.shape[1], like.shape[3]))
