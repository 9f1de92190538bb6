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

from cotrace.batches import EncodedPair, Layout, prompt_layouts, token_text
from cotrace.components import Component, Site
from cotrace.interventions import forward
from cotrace.models.internals import AttentionCall, attention_handler
from cotrace.models.stream import Norm, post_norm
from cotrace.models.taps import Edit
from cotrace.problem.scorer import Scorer
from cotrace.readout.logit_parts import Writer
from cotrace.readout.records import Moved, Ov

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
    values = _Values(scorer, writer, heads)
    return {
        str(head): _map(writer, head, own, values.tokens, looked.get(str(head), ()))
        for head, own in values.run(pairs).items()
    }


class _Values:
    """The values of each head on every token but the prompts' first."""

    def __init__(self, scorer: Scorer, writer: Writer, heads: Sequence[Component]) -> None:
        self.scorer, self.writer = scorer, writer
        self.places = scorer.model.places(Site.HEAD_OUTPUT)
        self.heads = [h for h in heads if h.layer in writer.matrices and self.places[h.layer].tap == "attention"]
        self.gated: set[int] = set()
        """Layers in which something stands between the heads and their matrix."""
        self.tokens: list[int] = []
        self.found: dict[Component, list[Tensor]] = {head: [] for head in self.heads}
        self._calls: dict[nn.Module, Tensor] = {}
        self._given: dict[int, Tensor] = {}

    @torch.no_grad()
    def run(self, pairs: Sequence[EncodedPair]) -> dict[Component, Float[Tensor, "token d_head"]]:
        """Of the heads whose output goes as it is into the matrix behind them."""
        model, eager = self.scorer.model, self.scorer.eager
        layers = sorted({head.layer for head in self.heads})
        taps = [(self.places[layer], self._keep(layer)) for layer in layers]
        taps += [(self.writer.matrices[layer], self._compare(layer)) for layer in layers]
        for layout in prompt_layouts(pairs, range(len(pairs)), replace(self.scorer.packing, packed=False)):
            with attention_handler(model.module, self._note, eager=eager):
                forward(model, layout, taps, eager=eager)
            self._take(layout)
        return {head: torch.cat(rows) for head, rows in self.found.items() if head.layer not in self.gated}

    def _note(self, module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        self._calls[module] = call.value
        return call.original()

    def _keep(self, layer: int) -> Edit:
        def edit(own: Tensor) -> Tensor:
            self._given[layer] = own
            return own

        return edit

    def _compare(self, layer: int) -> Edit:
        def edit(own: Tensor) -> Tensor:
            if not torch.equal(own.flatten(), self._given[layer].flatten()):
                self.gated.add(layer)
            return own

        return edit

    def _take(self, layout: Layout) -> None:
        real = (layout.example >= 0) & (layout.position_ids > 0)
        where = torch.nonzero(real.flatten()).flatten()
        self.tokens += layout.input_ids.flatten()[where].tolist()
        for head in self.heads:
            place = self.places[head.layer]
            call = self._calls[place.module]
            own = call[:, (head.unit or 0) // (place.units // call.shape[1])]
            self.found[head].append(own.flatten(0, 1)[where.to(own.device)])


@torch.no_grad()
def _map(
    writer: Writer, head: Component, values: Float[Tensor, "token d_head"], tokens: list[int], looked: Sequence[str]
) -> Ov:
    place, ends = writer.matrices[head.layer], writer.unembedding
    given = values.new_zeros(len(values), place.units * place.width)
    start = (head.unit or 0) * place.width
    given[:, start : start + place.width] = values
    made = place.module(given) - place.module(torch.zeros_like(given))
    anything = torch.randn(made.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)[None]
    post, final = (
        Norm.of(norm, anything.to(made))
        for norm in (post_norm(writer.added[head.layer, Site.ATTENTION_OUTPUT]), ends.norm)
    )
    behind = final.weighted(post.weighted(made)).to(ends.weight)
    words = writer.model.require_tokenizer()
    copied, by_token = 0, defaultdict[str, list[Tensor]](list)
    for token, row in zip(tokens, behind, strict=True):
        logits = (ends.head(row[None]) - ends.head(torch.zeros_like(row[None])))[0].float().cpu()
        copied += bool(logits[token] > logits.mean()) and int((logits > logits[token]).sum()) < FIRST
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
