"""Prefix reuse: keys and values of tokens that no mask changes are computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from cotrace.batches import EncodedPair, Layout, Packing, prefix_layouts
from cotrace.interventions.forward import forward
from cotrace.interventions.storage import Keep, in_memory
from cotrace.models import LanguageModel


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of every kept token, for each layer, token by token without padding."""

    keys: Sequence[Float[Tensor, "token kv_head d_head"]]
    values: Sequence[Float[Tensor, "token kv_head d_value"]]
    devices: Sequence[torch.device]
    """Where each layer wants them; they may be kept elsewhere."""
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
        self._last.append((layout, copies, self._made(layout, copies)))
        return self._last[0][2]

    def _made(self, layout: Layout, copies: int) -> DynamicCache:
        cache = KeptCache()
        index = layout.cached.clamp(min=0)
        for i, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            device = self.devices[i]
            cache.update(_rows(keys, index, copies).to(device), _rows(values, index, copies).to(device), i)
        cache.closed = True
        return cache


class DelayedPrefixes:
    """Prefixes whose keys and values are computed when they are first asked for; where no run is, never."""

    def __init__(self, make: Callable[[], PrefixCache | None]) -> None:
        self._make, self._made = make, list[PrefixCache | None]()

    def for_layout(self, layout: Layout, copies: int) -> DynamicCache | None:
        """As that of a ``PrefixCache``; None where there are no prefixes."""
        if not self._made:
            self._made.append(self._make())
        made = self._made[0]
        return None if made is None else made.for_layout(layout, copies)


class KeptCache(DynamicCache):  # type: ignore[misc]
    """A cache that takes prefixes and then only gives: a layer may run again in the backward pass and finds the same.

    It does not hold the keys and values of the rows either, which would live until the pass is over.
    """

    closed = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and rows together."""
        if not self.closed:
            found: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            return found
        kept = self.layers[layer_idx]
        return torch.cat([kept.keys, key_states], 2), torch.cat([kept.values, value_states], 2)


def _rows(kept: Tensor, index: Tensor, copies: int) -> Tensor:
    rows = kept[index.to(kept.device)].transpose(1, 2)
    return rows.repeat(copies, 1, 1, 1)


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
