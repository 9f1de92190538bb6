"""Writes of a member on the data: its part in the answers, the tokens that it raises, and its direct effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import Layout, token_text
from cotrace.components import Component, Site
from cotrace.errors import UnsupportedSite
from cotrace.interventions import LayerInputs
from cotrace.models import Place
from cotrace.models.hooks import Edit
from cotrace.models.stream import EXACT
from cotrace.problem.scorer import Scorer
from cotrace.readout.held import over_layouts
from cotrace.readout.logit_parts import Frozen, Kept, Points, Writer, features
from cotrace.readout.records import Contributions, Token, Written

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
    mean: dict[str, Tensor] = field(default_factory=dict)
    """Expert -> the sum of what it writes on all tokens of the base run [d_model]."""

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
        more = [*kept.edits(places, points.at, 1), *reads.edits(adders, layout.read_at, 1), *self._adding_up(layout)]
        with self.scorer.batching.passing(layout):
            self.scorer.run(self._zeros(1), layout, layer_inputs=layer_inputs, more=more)
        at = points.at.to(self.scorer.model.device)
        streams = {
            i: entry.hidden.flatten(0, 1)[at.to(entry.hidden.device)] for i, entry in layer_inputs.entries.items()
        }
        streams |= {layer: kept.values[place][0] for layer, place in passed.items() if layer < len(layers)}
        return Frozen(writer, points, kept, streams), layer_inputs, reads.values

    def _adding_up(self, layout: Layout) -> list[tuple[Place, Edit]]:
        """Edits that change nothing and add up what each expert writes, padding left out."""
        where = torch.nonzero((layout.example >= 0).flatten()).flatten()

        def adding(member: Component, place: Place) -> Edit:
            mine = features(member, place, self.scorer.model)

            def add(own: Tensor) -> Tensor:
                flat = own.reshape(-1, place.units * place.width)[where.to(own.device), mine]
                self.mean[str(member)] = self.mean.get(str(member), 0.0) + flat.sum(0).double().cpu()
                return own

            return add

        places = {member: self._place(member) for member in self._seen if member.site is Site.EXPERT}
        return [(place, adding(member, place)) for member, place in places.items()]

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
            with self.scorer.batching.passing(layout, copies):
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
        self.mean.pop(str(member), None)
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
                with self.scorer.batching.passing(layout, len(known)):
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
