"""What a head makes of the tokens that it looks at: its OV map, on the values that it finds on these prompts.

A head that attends wholly to one token writes the token's value through its output matrix (Elhage et al. 2021, A
Mathematical Framework for Transformer Circuits). Where that raises the token's own logit most, the head copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cotrace.batches import EncodedPair, prompt_layouts, token_text
from cotrace.components import Component, Site
from cotrace.interventions import forward
from cotrace.models.internals import AttentionCall, attention_handler
from cotrace.models.stream import Norm, post_norm
from cotrace.problem.scorer import Scorer
from cotrace.readout.records import Moved, Ov
from cotrace.readout.writes import Writer

PAIRS = 16
"""Prompts whose values are looked at."""
FIRST = 5
"""A token is copied where its own logit is among so many that are raised most."""
RAISED = 4
"""Tokens that are kept of those that a looked-at token raises."""


def ov_maps(
    scorer: Scorer,
    writer: Writer,
    heads: Sequence[Component],
    pairs: Sequence[EncodedPair],
    looked: Mapping[str, Sequence[str]],
) -> dict[str, Ov]:
    """Of those heads whose values can be seen and go as they are into the output matrix; ``looked``: tokens of each."""
    pairs = pairs[:: -(-len(pairs) // PAIRS)]
    found: dict[str, Ov] = {}
    seen = _values(scorer, writer, heads, pairs)
    for head in heads:
        rows = seen.get(head)
        if rows is None:
            continue
        values, tokens = rows
        found[str(head)] = _map(writer, head, values, tokens, looked.get(str(head), ()))
    return found


@torch.no_grad()
def _values(
    scorer: Scorer, writer: Writer, heads: Sequence[Component], pairs: Sequence[EncodedPair]
) -> dict[Component, tuple[Float[Tensor, "token d_head"], list[int]]]:
    """Each head's values of every token but the prompts' first, and the tokens."""
    model = scorer.model
    places = model.places(Site.HEAD_OUTPUT)
    wanted = [head for head in heads if head.layer in writer.matrices and places[head.layer].tap == "attention"]
    modules = {places[head.layer].module for head in wanted}
    values: dict[Component, list[Tensor]] = defaultdict(list)
    tokens: list[int] = []
    plain: set[int] = {head.layer for head in wanted}
    packing = replace(scorer.packing, packed=False)
    for layout in prompt_layouts(pairs, range(len(pairs)), packing):
        calls: dict[nn.Module, Tensor] = {}
        given: dict[int, list[Tensor]] = defaultdict(list)
        real = (layout.example >= 0) & (layout.position_ids > 0)
        where = torch.nonzero(real.flatten()).flatten()

        def note(
            module: nn.Module, call: AttentionCall, calls: dict[nn.Module, Tensor] = calls
        ) -> tuple[Tensor, Tensor | None]:
            if module in modules:
                calls[module] = call.value
            return call.original()

        def keep(layer: int, given: dict[int, list[Tensor]] = given) -> object:
            def edit(own: Tensor) -> Tensor:
                given[layer].append(own.reshape(-1, places[layer].units * places[layer].width)[:1])
                return own

            return edit

        taps = [(place, keep(layer)) for layer in plain for place in (places[layer], writer.matrices[layer])]
        with attention_handler(model.module, note, eager=scorer.eager):
            forward(model, layout, taps, eager=scorer.eager)
        plain -= {layer for layer, (heads_, into) in given.items() if not torch.equal(heads_, into)}
        tokens += layout.input_ids.flatten()[where].tolist()
        for head in wanted:
            call = calls[places[head.layer].module]
            own = call[:, (head.unit or 0) // (places[head.layer].units // call.shape[1])]
            values[head].append(own.flatten(0, 1)[where.to(own.device)])
    return {head: (torch.cat(values[head]), tokens) for head in wanted if head.layer in plain}


@torch.no_grad()
def _map(
    writer: Writer, head: Component, values: Float[Tensor, "token d_head"], tokens: list[int], looked: Sequence[str]
) -> Ov:
    place, ends = writer.matrices[head.layer], writer.unembedding
    given = values.new_zeros(len(values), place.units * place.width)
    start = (head.unit or 0) * place.width
    given[:, start : start + place.width] = values
    made = place.module(given) - place.module(torch.zeros_like(given))
    post = Norm.of(post_norm(writer.added[head.layer, Site.ATTENTION_OUTPUT]), made)
    final = Norm.of(ends.norm, made)
    behind = final.weighted(post.weighted(made)).to(ends.weight)
    words = writer.model.require_tokenizer()
    copied, by_token = 0, defaultdict[str, list[Tensor]](list)
    for token, row in zip(tokens, behind, strict=True):
        logits = (ends.head(row[None]) - ends.head(torch.zeros_like(row[None])))[0].float().cpu()
        copied += int((logits > logits[token]).sum()) < FIRST
        name = token_text(words, token)
        if name in looked:
            by_token[name].append(logits)
    moved = [
        Moved(token=name, raises=tuple(_best(torch.stack(by_token[name]).mean(0), writer)))
        for name in looked
        if name in by_token
    ]
    return Ov(copies=copied / max(1, len(tokens)), moved=tuple(moved))


def _best(logits: Tensor, writer: Writer) -> list[str]:
    words = writer.model.require_tokenizer()
    order = torch.argsort(logits, descending=True, stable=True)[:RAISED].tolist()
    return [token_text(words, token) if token < len(words) else f"[{token}]" for token in order]
