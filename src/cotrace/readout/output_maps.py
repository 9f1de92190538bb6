"""Weights of a member alone: the tokens that a head's OV map, or another member's output row, raises and lowers.

A head that attends wholly to one token writes the token's value through its output matrix (Elhage et al. 2021, A
Mathematical Framework for Transformer Circuits). Where that raises the token's own logit most, the head copies. An
expert has a row for each of its neurons: of it, the direction along which these write most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cotrace.batches import EncodedPair, Layout, prompt_layouts, token_text
from cotrace.components import Component, Site
from cotrace.interventions import forward
from cotrace.models.attention_interface import AttentionCall, attention_handler, expert_output
from cotrace.models.hooks import Edit
from cotrace.models.stream import Norm, post_norm
from cotrace.problem.scorer import Scorer
from cotrace.readout.logit_parts import ADDER, Writer, features
from cotrace.readout.records import Moved, Ov

PAIRS = 16
"""Prompts whose values are looked at."""
FIRST = 5
"""A token is copied where its own logit is among so many that are raised most."""
RAISED = 4
"""Tokens that are kept of those that a looked-at token raises, and lowers."""
ROWS = (Site.MLP_NEURON, Site.MLP_COORDINATE)
"""Sites whose components always write along one direction."""


def ov_maps(
    scorer: Scorer,
    writer: Writer,
    heads: Sequence[Component],
    pairs: Sequence[EncodedPair],
    looked: Mapping[str, Sequence[str]],
) -> dict[str, Ov]:
    """Return OV maps of heads whose values go straight into the output matrix; ``looked``: tokens of each."""
    pairs = pairs[:: -(-len(pairs) // PAIRS)]
    values = _Values(scorer, writer, heads)
    return {
        str(head): _map(writer, head, own, values, looked.get(str(head), ())) for head, own in values.run(pairs).items()
    }


class _Values:
    """The values of each head on every token."""

    def __init__(self, scorer: Scorer, writer: Writer, heads: Sequence[Component]) -> None:
        self.scorer, self.writer = scorer, writer
        self.places = scorer.model.places(Site.HEAD_OUTPUT)
        self.heads = [h for h in heads if h.layer in writer.matrices and self.places[h.layer].side == "attention"]
        self.gated: set[int] = set()
        """Layers in which something stands between the heads and their matrix."""
        self.tokens: list[int] = []
        self.later: list[bool] = []
        """Whether a token is behind the prompt's first, on which many heads merely rest."""
        self.found: dict[Component, list[Tensor]] = {head: [] for head in self.heads}
        self._calls: dict[nn.Module, Tensor] = {}
        self._given: dict[int, Tensor] = {}

    @torch.no_grad()
    def run(self, pairs: Sequence[EncodedPair]) -> dict[Component, Float[Tensor, "token d_head"]]:
        """Run the heads whose output goes as it is into the matrix behind them."""
        model, eager = self.scorer.model, self.scorer.eager
        layers = sorted({head.layer for head in self.heads})
        edits = [(self.places[layer], self._keep(layer)) for layer in layers]
        edits += [(self.writer.matrices[layer], self._compare(layer)) for layer in layers]
        for layout in prompt_layouts(pairs, range(len(pairs)), replace(self.scorer.packing, packed=False)):
            with attention_handler(model.module, self._note, eager=eager):
                forward(model, layout, edits, eager=eager)
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
        where = torch.nonzero((layout.example >= 0).flatten()).flatten()
        self.tokens += layout.input_ids.flatten()[where].tolist()
        self.later += (layout.position_ids.flatten()[where] > 0).tolist()
        for head in self.heads:
            place = self.places[head.layer]
            call = self._calls[place.module]
            own = call[:, (head.unit or 0) // (place.units // call.shape[1])]
            self.found[head].append(own.flatten(0, 1)[where.to(own.device)])


@torch.no_grad()
def _map(
    writer: Writer, head: Component, values: Float[Tensor, "token d_head"], seen: _Values, looked: Sequence[str]
) -> Ov:
    place = writer.matrices[head.layer]
    given = values.new_zeros(len(values), place.units * place.width)
    start = (head.unit or 0) * place.width
    given[:, start : start + place.width] = values
    made = place.module(given) - place.module(torch.zeros_like(given))
    words = writer.model.require_tokenizer()
    copied, by_token = 0, defaultdict[str, list[Tensor]](list)
    for token, later, logits in zip(seen.tokens, seen.later, _logits(writer, head, made), strict=True):
        copied += later and bool(logits[token] > logits.mean()) and int((logits > logits[token]).sum()) < FIRST
        name = token_text(words, token)
        if name in looked:
            by_token[name].append(logits)
    moved = [_moved(writer, name, torch.stack(by_token[name]).mean(0)) for name in looked if name in by_token]
    return Ov(copies=copied / max(1, sum(seen.later)), moved=tuple(moved))


def _logits(
    writer: Writer, member: Component, made: Float[Tensor, "token d_model"]
) -> Iterator[Float[Tensor, "vocabulary"]]:
    """Return the logits of each vector behind the norms that it passes, without their scales."""
    ends, place = writer.unembedding, writer.added[member.layer, ADDER[member.site]]
    anything = torch.randn(made.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)[None]
    if member.site is Site.MLP_COORDINATE:  # one of what is added, behind the layer's norm
        behind = made
    else:
        behind = place.factor * Norm.of(post_norm(place), anything.to(made)).weighted(made)
    final = Norm.of(ends.norm, anything.to(made)).weighted(behind).to(ends.weight)
    for row in final:
        yield (ends.head(row[None]) - ends.head(torch.zeros_like(row[None])))[0].float().cpu()


@torch.no_grad()
def output_rows(
    writer: Writer, members: Sequence[Component], mean: Mapping[str, Float[Tensor, "d_model"]] = MappingProxyType({})
) -> dict[str, Ov]:
    """Return the tokens that one more unit of each neuron or coordinate raises, and an expert's output matrix most.

    Members whose layer's output is not seen in the stream are left out. ``mean``: what each expert writes on the data.
    """
    found = {}
    for member in members:
        if str(member) in mean and (ov := _expert_row(writer, member, mean[str(member)])) is not None:
            found[str(member)] = ov
        if member.site not in ROWS or (member.layer, Site.MLP_OUTPUT) not in writer.added:
            continue
        place = writer.place(member)
        one = torch.zeros(1, place.units * place.width, device=writer.model.device, dtype=writer.model.dtype)
        one[0, features(member, place, writer.model)] = 1
        made = one if member.site is Site.MLP_COORDINATE else place.module(one) - place.module(torch.zeros_like(one))
        (logits,) = _logits(writer, member, made)
        found[str(member)] = Ov(copies=None, moved=(_moved(writer, "", logits),))
    return found


def _expert_row(writer: Writer, member: Component, mean: Float[Tensor, "d_model"]) -> Ov | None:
    """Return the leading direction of an expert's output matrix, on the side of what the expert writes on the data."""
    place = writer.place(member)
    matrix = expert_output(place.module, member.unit or 0)
    if matrix is None or not bool(mean.any()):
        return None
    direction, share = leading(matrix.detach().cpu().double())
    one = direction if float(direction @ mean) >= 0 else -direction
    (logits,) = _logits(writer, member, one[None].to(writer.model.device, writer.model.dtype))
    return Ov(copies=None, moved=(_moved(writer, "", logits),), share=share)


def leading(matrix: Float[Tensor, "row column"]) -> tuple[Float[Tensor, "column"], float]:
    """Return a matrix's first right singular vector, and its share of the sum of squares."""
    rows, columns = matrix.shape
    values, vectors = torch.linalg.eigh(matrix @ matrix.T if rows < columns else matrix.T @ matrix)
    first = matrix.T @ vectors[:, -1] if rows < columns else vectors[:, -1]
    return first / first.norm(), float(values[-1] / values.sum())


def _moved(writer: Writer, given: str, logits: Float[Tensor, "vocabulary"]) -> Moved:
    words = writer.model.require_tokenizer()

    def named(order: Tensor) -> tuple[str, ...]:
        return tuple(token_text(words, one) if one < len(words) else f"[{one}]" for one in order[:RAISED].tolist())

    return Moved(
        token=given,
        raises=named(torch.argsort(logits, descending=True, stable=True)),
        lowers=named(torch.argsort(logits, stable=True)),
    )
