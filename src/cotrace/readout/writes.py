"""Writes of a member: its part in the metric's answers, and the tokens that its weights alone raise (OV maps, output
rows).

A head that attends wholly to one token writes the token's value through its output matrix (Elhage et al. 2021, A
Mathematical Framework for Transformer Circuits). Where that raises the token's own logit most, the head copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cotrace.batches import EncodedPair, Layout, prompt_layouts, token_text
from cotrace.components import Component, Site
from cotrace.errors import UnsupportedSite
from cotrace.interventions import LayerInputs, forward
from cotrace.models import Place
from cotrace.models.attention_interface import AttentionCall, attention_handler
from cotrace.models.hooks import Edit
from cotrace.models.stream import EXACT, Norm, post_norm
from cotrace.problem.scorer import Scorer
from cotrace.readout.held import over_layouts
from cotrace.readout.logit_parts import ADDER, Frozen, Kept, Points, Writer, features
from cotrace.readout.records import Contributions, Moved, Ov, Token, Written

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
        self.heads = [h for h in heads if h.layer in writer.matrices and self.places[h.layer].tap == "attention"]
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
def output_rows(writer: Writer, members: Sequence[Component]) -> dict[str, Ov]:
    """Return the tokens that one more unit of each neuron or coordinate raises, where the stream shows its output."""
    found = {}
    for member in members:
        if member.site not in ROWS or (member.layer, Site.MLP_OUTPUT) not in writer.added:
            continue
        place = writer.place(member)
        one = torch.zeros(1, place.units * place.width, device=writer.model.device, dtype=writer.model.dtype)
        one[0, features(member, place, writer.model)] = 1
        made = one if member.site is Site.MLP_COORDINATE else place.module(one) - place.module(torch.zeros_like(one))
        (logits,) = _logits(writer, member, made)
        found[str(member)] = Ov(copies=None, moved=(_moved(writer, "", logits),))
    return found


def _moved(writer: Writer, given: str, logits: Float[Tensor, "vocabulary"]) -> Moved:
    words = writer.model.require_tokenizer()

    def named(order: Tensor) -> tuple[str, ...]:
        return tuple(token_text(words, one) if one < len(words) else f"[{one}]" for one in order[:RAISED].tolist())

    return Moved(
        token=given,
        raises=named(torch.argsort(logits, descending=True, stable=True)),
        lowers=named(torch.argsort(logits, stable=True)),
    )


FAINT = 1e-6
"""Logits below which nothing is raised or lowered."""
TOKENS = 6
"""Promoted and suppressed tokens that are kept."""


@dataclass(eq=False)
class Writes:
    """Writes of the members of a set on a scorer's pairs. A base run, and for each member a swapped and a direct one.

    ``direct`` holds the scores where only what the member itself adds is changed, behind all later layers.
    """

    scorer: Scorer
    members: Sequence[Component]
    writer: Writer
    unseen: dict[str, str] = field(default_factory=dict)
    """Member -> why what it writes is not seen."""

    def __post_init__(self) -> None:
        scorer, count = self.scorer, len(self.scorer.pairs)
        kind = scorer.model.compute_dtype
        self.direct = torch.full((len(self.members), count, scorer.columns), torch.nan, dtype=kind)
        self._rows: dict[str, Tensor] = {}
        self._difference = torch.full((count,), torch.nan, dtype=torch.float64)
        self._own = torch.full((2, len(self.members), count), torch.nan, dtype=torch.float64)
        self._logits = [torch.zeros(0)] * len(self.members)
        self.nonlinear = ""

    @torch.no_grad()
    def run(self, tick: Callable[[int], None] | None = None) -> Writes:
        """Carry it out."""
        over_layouts(self.scorer, self._layout, tick)
        return self

    def _layout(self, layout: Layout) -> None:
        total = sum(self._pass(replace(one, beside=()) if one.beside else one) for one in layout.passes)
        self.direct[:, torch.tensor(layout.examples)] = torch.as_tensor(total).to(self.direct)

    def _pass(self, layout: Layout) -> Float[Tensor, "member example answer"]:
        points = Points.of(self.scorer, layout)
        base, entries, reads = self._base(layout, points)
        donors, deltas = self._swapped(layout, points, base, reads)
        if points.examples:
            self._note(base, donors)
        return self._directly(layout, deltas, entries)

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, len(self.scorer.space), dtype=self.scorer.model.compute_dtype)

    def _base(self, layout: Layout, points: Points) -> tuple[Frozen, LayerInputs, dict[Place, Tensor]]:
        """The base run: at the points all that is added, and at every position that is read what the adders give."""
        writer, kept, reads = self.writer, Kept(), Kept()
        layers = self.scorer.model.layers
        passed = {one.index + 1: place for one in layers if (place := one.place(Site.RESIDUAL)) is not None}
        needed = [place for member in self._seen for place in writer.needs(member)]
        places = [writer.end, *writer.added.values(), *writer.matrices.values(), *needed]
        places += passed.values()
        places += [writer.joint(member.layer) for member in self._seen if member.site is Site.EXPERT]
        adders = [place for place in map(writer.adder, self.members) if place is not None]
        # Whole streams are large: only those that no output gives, and the one that direct runs start from.
        layer_inputs = LayerInputs([one.index for one in layers if one.index not in passed or one is layers[-1]])
        more = [*kept.edits(places, points.at, 1), *reads.edits(adders, layout.read_at, 1)]
        with self.scorer.passing(layout):
            self.scorer.run(self._zeros(1), layout, layer_inputs=layer_inputs, more=more)
        at = points.at.to(self.scorer.model.device)
        streams = {
            i: entry.hidden.flatten(0, 1)[at.to(entry.hidden.device)] for i, entry in layer_inputs.entries.items()
        }
        streams |= {layer: kept.values[place][0] for layer, place in passed.items() if layer < len(layers)}
        return Frozen(writer, points, kept, streams), layer_inputs, reads.values

    @cached_property
    def _seen(self) -> list[Component]:
        """The members whose writing can be seen."""
        found = []
        for member in self.members:
            try:
                self._place(member)
                found.append(member)
            except UnsupportedSite as error:
                self.unseen[str(member)] = str(error)
        return found

    def _place(self, member: Component) -> Place:
        return self.writer.place(member)

    def _swapped(
        self, layout: Layout, points: Points, base: Frozen, reads: Mapping[Place, Tensor]
    ) -> tuple[dict[Component, Tensor], dict[Component, Tensor]]:
        """Each member swapped: its own values at the points, and by how much the stream moves where it is read."""
        donors: dict[Component, Tensor] = {}
        deltas: dict[Component, Tensor] = {}
        for some in self._chunks(layout):
            kept, moved, copies = Kept(), Kept(), len(some)
            adders = {member: place for member in some if (place := self.writer.adder(member)) is not None}
            seen = [member for member in some if member in self._seen]
            joints = [self.writer.joint(member.layer) for member in seen if member.site is Site.EXPERT]
            more = [
                *kept.edits([*map(self._place, seen), *joints], points.at, copies),
                *moved.edits(list(adders.values()), layout.read_at, copies),
            ]
            masks = torch.stack([torch.from_numpy(self.scorer.space.indicator([one])) for one in some])
            with self.scorer.passing(layout, copies):
                self.scorer.run(masks.to(self.scorer.model.compute_dtype), layout, more=more)
            for copy, member in enumerate(some):
                if member in seen and self._arrives(member, base, kept, copy):
                    donors[member] = kept.values[self._place(member)][copy]
                if member in adders:
                    deltas[member] = moved.values[adders[member]][copy] - reads[adders[member]][0]
        return donors, deltas

    def _arrives(self, member: Component, base: Frozen, kept: Kept, copy: int) -> bool:
        """Whether all of an expert's change, and nothing else, is in its layer's sum; others go through one matrix."""
        if member.site is not Site.EXPERT or not base.points.examples:
            return True
        own, joint = self._place(member), self.writer.joint(member.layer)
        at = features(member, own, self.scorer.model)
        change = (kept.values[own][copy] - base.at(own))[:, at]
        error = (kept.values[joint][copy] - base.at(joint) - change).norm()
        if error <= EXACT.get(change.dtype, 1e-4) * base.at(joint).norm():
            return True
        self.unseen[str(member)] = f"what {member} writes is not seen: its layer does more than add it to the others"
        return False

    def _chunks(self, layout: Layout) -> Iterator[Sequence[Component]]:
        step = max(1, self.scorer.batching.tokens // layout.cells)
        return (self.members[at : at + step] for at in range(0, len(self.members), step))

    def _directly(
        self, layout: Layout, deltas: Mapping[Component, Tensor], layer_inputs: LayerInputs
    ) -> Float[Tensor, "member example answer"]:
        """Scores where each member's change is added behind the last layer; not a number where it is not known."""
        last = max(layer_inputs.entries)
        entry = layer_inputs.entries[last] if self.scorer.packing.shortcuts and last else None
        found = []
        for some in self._chunks(layout):
            known = [member for member in some if member in deltas]
            table = torch.full((len(some), len(layout.examples), layout.answers), torch.nan).to(self.direct)
            if self.scorer.reads == "logits":
                table = table[..., :1].expand(-1, -1, self.scorer.columns).clone()
            if known:
                edit = _adding(torch.stack([deltas[member] for member in known]), layout.read_at)
                with self.scorer.passing(layout, len(known)):
                    scores = self.scorer.run(
                        self._zeros(len(known)), layout, entry=entry, more=[(self.writer.end, edit)]
                    )
                table[[some.index(member) for member in known]] = scores
            found.append(table)
        return torch.cat(found)

    def _note(self, base: Frozen, donors: Mapping[Component, Tensor]) -> None:
        """The numbers of the pairs that this pass tells apart."""
        at = torch.tensor(base.points.examples)
        self._difference[at] = base.difference.double().cpu()
        try:
            for name, row in base.rows():
                table = self._rows.setdefault(name, torch.zeros(len(self.scorer.pairs), dtype=torch.float64))
                table[at] = row.double().cpu()
        except UnsupportedSite as error:
            self.nonlinear = str(error)
            return
        for i, member in enumerate(self.members):
            if member in donors:
                self._note_member(i, member, base, donors[member], at)

    def _note_member(self, i: int, member: Component, base: Frozen, donor: Tensor, at: Tensor) -> None:
        try:
            own = base.vector(member, base.own(member))
            self._own[0, i, at] = (own * base.pulled).sum(-1).double().cpu()
            self._own[1, i, at] = base.part(member, base.swapped(member, donor)).double().cpu()
        except UnsupportedSite as error:
            self.unseen[str(member)] = str(error)
            return
        ends = self.writer.unembedding
        behind = (ends.scale * base.norm.linear(base.end, own)).sum(0, keepdim=True).to(ends.weight)
        logits = (ends.head(behind) - ends.head(torch.zeros_like(behind)))[0].double().cpu()
        self._logits[i] = logits if len(self._logits[i]) == 0 else self._logits[i] + logits

    @cached_property
    def contributions(self) -> Contributions | None:
        """All parts; None where the stream is not linear, or no pair has answers that can be told apart."""
        there = torch.isfinite(self._difference)
        if self.nonlinear or not bool(there.any()):
            return None
        ids = [pair.pair.id for pair, one in zip(self.scorer.pairs, there.tolist(), strict=True) if one]
        return Contributions(
            tuple(ids),
            tuple(self._rows),
            torch.stack([row[there] for row in self._rows.values()]).numpy(),
            self._difference[there].numpy(),
            self.writer.unembedding.logit_scale is None,
        )

    def member(self, i: int, weight: Float[Tensor, "pair"]) -> Written:
        """Return what a member writes, weighted over the pairs."""
        name, own = str(self.members[i]), self._own[:, i]
        there = torch.isfinite(own).all(0)
        if self.nonlinear or not bool(there.any()) or not bool(weight[there].sum() > 0):
            return Written(component=name)
        base, donor = ((own[:, there] * weight[there]).sum(1) / weight[there].sum()).tolist()
        logits = self._logits[i] / int(there.sum())
        logits = logits - logits.mean()
        if float(logits.abs().max()) < FAINT:
            return Written(component=name, base=base, donor=donor)
        order = torch.argsort(logits, descending=True, stable=True)
        return Written(
            component=name,
            base=base,
            donor=donor,
            promoted=self._tokens(logits, order[:TOKENS]),
            suppressed=self._tokens(logits, order.flip(0)[:TOKENS]),
        )

    def _tokens(self, logits: Tensor, which: Tensor) -> tuple[Token, ...]:
        words = self.scorer.model.require_tokenizer()
        known = len(words)
        return tuple(
            (token_text(words, token) if token < known else f"[{token}]", float(logits[token]))
            for token in which.tolist()
        )


def _adding(change: Float[Tensor, "copy read d_model"], at: Int[Tensor, "read"]) -> Edit:
    """Add a change to the stream at some positions."""

    def add(own: Tensor) -> Tensor:
        flat = own.reshape(len(change), -1, change.shape[-1])
        return flat.index_add(1, at.to(own.device), change.to(own)).reshape(own.shape)

    return add
