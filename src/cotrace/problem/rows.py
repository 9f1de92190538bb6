"""Rows: whether several examples share one, or each has its own, where a measurement of both decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Literal

import torch

from cotrace.batches import EncodedPair, Packing, answer_layouts
from cotrace.donors import DonorSource
from cotrace.interventions import forward, keep_prefixes
from cotrace.models import LanguageModel

Rows = Literal["measured", "packed", "plain"]
"""How examples are put into rows: several to one where the model allows, one for each, or what is quicker."""
MEASURED_BELOW = 1_000_000
"""Parameters of the models for which that is measured. With more, products rule the cost: the fewest tokens win."""
MEASURED_TOKENS, MEASURED_PASSES = 512, 5
"""Tokens of the sample that is timed, and how often: a tenth to a quarter of a second of such a model's time."""
CLEARLY = 0.9
"""Plain rows are taken where they need at most this share of the time: by less, chance would choose."""


def quicker(model: LanguageModel, pairs: Sequence[EncodedPair], source: DonorSource, packing: Packing) -> Packing:
    """The packing, or plain rows where forward passes over a sample of the pairs are clearly quicker with them."""
    if not packing.packed or model.module.num_parameters() >= MEASURED_BELOW:
        return packing
    tokens = sum(pair.fed for pair in pairs)
    few = [with_prefix(pair, source, packing) for pair in pairs[:: -(-tokens // MEASURED_TOKENS)]]
    plain = replace(packing, packed=False, keep_prefix=False)
    runs = [_passes(model, few, some) for some in (packing, plain)]
    seconds = [[_seconds(run) for run in runs] for _ in range(1 + MEASURED_PASSES)][1:]  # the first finds all cold
    packed_s, plain_s = map(min, zip(*seconds, strict=True))
    return plain if plain_s <= CLEARLY * packed_s else packing


@torch.no_grad()
def _passes(model: LanguageModel, pairs: Sequence[EncodedPair], packing: Packing) -> Callable[[], None]:
    """Forward passes over these pairs; they are over when the last logits have come to the processor."""
    layouts = [one for whole in answer_layouts(pairs, range(len(pairs)), packing) for one in whole.passes]
    kept = keep_prefixes(model, pairs, packing) if packing.keep_prefix else None
    caches = [None if kept is None else kept.for_layout(layout, 1) for layout in layouts]

    @torch.no_grad()
    def run() -> None:
        for layout, cache in zip(layouts, caches, strict=True):
            forward(model, layout, [], cache=cache)[..., 0].cpu()

    return run


def _seconds(run: Callable[[], None]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began


def with_prefix(pair: EncodedPair, source: DonorSource, packing: Packing) -> EncodedPair:
    """The pair with the prefix that is kept of it."""
    return replace(pair, prefix=source.prefix(pair) if packing.keep_prefix and packing.keeps_prefix(pair) else 0)
