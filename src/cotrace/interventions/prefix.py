"""Prefix reuse: keys and values of tokens that no mask changes are computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from cotrace.batches import EncodedPair, Layout, Packing, prefix_layouts
from cotrace.interventions.forward import forward
from cotrace.models import LanguageModel


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of every kept token, for each layer, token by token without padding."""

    keys: Sequence[Float[Tensor, "token kv_head d_head"]]
    values: Sequence[Float[Tensor, "token kv_head d_value"]]

    @property
    def nbytes(self) -> int:
        """Memory that they take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def for_layout(self, layout: Layout, copies: int) -> DynamicCache:
        """A cache for one forward pass, each copy of the rows with the same prefix; what is stored stays."""
        cache = DynamicCache()
        index = layout.cached.clamp(min=0)
        for i, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(_rows(keys, index, copies), _rows(values, index, copies), i)
        return cache


def _rows(kept: Tensor, index: Tensor, copies: int) -> Tensor:
    rows = kept[index.to(kept.device)].transpose(1, 2)
    return rows.expand(copies, *rows.shape).reshape(-1, *rows.shape[1:])


@torch.no_grad()
def keep_prefixes(model: LanguageModel, pairs: Sequence[EncodedPair], packing: Packing) -> PrefixCache | None:
    """Run the pairs' prefixes and keep their keys and values; None where there are none."""
    total = sum(pair.prefix for pair in pairs)
    stores: list[tuple[Tensor, Tensor]] = []
    for layout in prefix_layouts(pairs, packing):
        cache = DynamicCache()
        forward(model, layout, [], cache=cache)
        if not stores:
            stores = [(_empty(layer.keys, total), _empty(layer.values, total)) for layer in cache.layers]
        source = layout.source.flatten()
        real = torch.nonzero(source >= 0).flatten()
        for (keys, values), layer in zip(stores, cache.layers, strict=True):
            for store, found in ((keys, layer.keys), (values, layer.values)):
                flat = found.transpose(1, 2).flatten(0, 1)
                store[source[real].to(store.device)] = flat[real.to(flat.device)]
    return PrefixCache(*zip(*stores, strict=True)) if stores else None


def _empty(like: Tensor, tokens: int) -> Tensor:
    """[row, head, pos, d] -> room for [token, head, d]."""
    return like.new_empty(tokens, like.shape[1], like.shape[3])
