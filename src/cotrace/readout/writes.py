"""What each member writes: its part in the logits of the answers, and what of its effect reaches them directly.

At the frozen scale of the norms that are passed on the way, the logit difference between a pair's answers is a sum over
what the embeddings, every head, every MLP and the biases have added to the residual stream (direct logit attribution,
Elhage et al. 2021, A Mathematical Framework for Transformer Circuits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import Layout, token_text
from cotrace.components import Component, Site
from cotrace.errors import InputError, UnsupportedSite
from cotrace.interventions import Stations
from cotrace.interventions.frozen import frozen
from cotrace.models import LanguageModel, Place
from cotrace.models.internals import fresh_frequencies
from cotrace.models.language_model import evaluating
from cotrace.models.stream import EXACT, Norm, Unembedding, post_norm
from cotrace.models.taps import Edit
from cotrace.problem.scorer import Scorer
from cotrace.readout.held import over_layouts
from cotrace.readout.records import Contributions, Token, Written

FAINT = 1e-6
"""Logits below which nothing is raised or lowered."""
TOKENS = 6
"""Promoted and suppressed tokens that are kept."""
ADDER = {
    Site.ATTENTION_PATTERN: Site.ATTENTION_OUTPUT,
    Site.HEAD_OUTPUT: Site.ATTENTION_OUTPUT,
    Site.KV_GROUP: Site.ATTENTION_OUTPUT,
    Site.MLP_NEURON: Site.MLP_OUTPUT,
    Site.MLP_COORDINATE: Site.MLP_OUTPUT,
    Site.EXPERT: Site.MLP_OUTPUT,
}
"""Site -> the one that carries its values into the stream, where it is not added itself."""
THROUGH_HEADS = (Site.ATTENTION_PATTERN, Site.HEAD_OUTPUT, Site.KV_GROUP)


@dataclass(frozen=True)
class _Points:
    """Where of one forward pass each pair's answers are told apart, and by which tokens."""

    examples: list[int]
    at: Int[Tensor, "point"]
    """Flat positions (row * T + pos)."""
    right: list[int]
    wrong: list[list[int]]
    """No tokens where there is no other answer."""

    @classmethod
    def of(cls, scorer: Scorer, layout: Layout) -> _Points:
        """Of those pairs whose right answer this pass scores and whose answers' tokens differ somewhere."""
        found = cls([], torch.zeros(0, dtype=torch.int64), [], [])
        positions = []
        for local, example in enumerate(layout.examples):
            answers, target = scorer.pairs[example].answers, scorer.pairs[example].pair.target
            where = differing(answers, target)
            mine = torch.nonzero(layout.scored_cell == local * layout.answers + target).flatten()
            if where is None or len(mine) == 0:
                continue
            place, wrong = where
            positions.append(int(layout.read_at[layout.scored_read[mine[place]]]))
            found.examples.append(example)
            found.right.append(answers[target][place])
            found.wrong.append(wrong)
        return replace(found, at=torch.tensor(positions, dtype=torch.int64))


def differing(answers: Sequence[Sequence[int]], target: int) -> tuple[int, list[int]] | None:
    """The first place at which some answer's token is not the target's, and those tokens; None where there is none."""
    if len(answers) == 1:
        return 0, []
    for place, own in enumerate(answers[target]):
        others = [answer[place] for i, answer in enumerate(answers) if i != target and len(answer) > place]
        if wrong := [token for token in others if token != own]:
            return place, wrong
    return None


@dataclass(eq=False)
class _Kept:
    """Tensors [copy, point, feature] that a forward pass left at some places."""

    values: dict[Place, Tensor] = field(default_factory=dict)

    def edits(self, places: Sequence[Place], at: Int[Tensor, "point"], copies: int) -> list[tuple[Place, Edit]]:
        """Edits that change nothing."""
        return [(place, self._keep(place, at, copies)) for place in dict.fromkeys(places)]

    def _keep(self, place: Place, at: Int[Tensor, "point"], copies: int) -> Edit:
        def keep(own: Tensor) -> Tensor:
            flat = own.reshape(copies, -1, place.units * place.width)
            self.values[place] = flat[:, at.to(own.device)].detach()
            return own

        return keep


class Writer:
    """The maps from what components give to the logits. Raises UnsupportedSite where they cannot be told apart."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        with evaluating(model.module), fresh_frequencies(model.module):
            self.unembedding = Unembedding.of(model.module, model.layers)
        _ = self.unembedding.weight
        last = self.unembedding.norm or self.unembedding.head
        self.end = Place(Site.RESIDUAL, len(model.layers) - 1, last, "input", 1, self.width)
        self.matrices = {
            layer.index: Place(Site.HEAD_OUTPUT, layer.index, layer.projection, "input", layer.heads, layer.d_head)
            for layer in model.layers
            if layer.projection is not None and layer.heads
        }
        """Layer -> the input of the matrix that takes its heads, which has gates and inner norms behind it."""

    @property
    def width(self) -> int:
        """Numbers in the residual stream at one position."""
        return int(self.unembedding.weight.shape[1])

    @cached_property
    def added(self) -> dict[tuple[int, Site], Place]:
        """(layer, site) -> what is added to the stream there."""
        sites = (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT)
        return {
            (layer.index, site): place
            for layer in self.model.layers
            for site in sites
            if (place := layer.place(site)) is not None
        }

    def place(self, member: Component) -> Place:
        """Where the numbers stand that go into the stream for a member. Raises UnsupportedSite."""
        if member.site in THROUGH_HEADS:
            if member.layer not in self.matrices or (member.layer, Site.ATTENTION_OUTPUT) not in self.added:
                raise UnsupportedSite(f"what {member} writes is not seen: its heads are not put together by one matrix")
            return self.matrices[member.layer]
        return self.model.places(member.site)[member.layer]

    def adder(self, member: Component) -> Place | None:
        """The place behind which a member's layer is in the stream; None where that is not known."""
        if member.site in ADDER:
            return self.added.get((member.layer, ADDER[member.site]))
        return self.model.places(member.site)[member.layer]


@dataclass(eq=False)
class _Frozen:
    """The base run at the points of one pass: streams, what is added, and every norm at the scale that it had."""

    writer: Writer
    points: _Points
    kept: _Kept
    streams: Mapping[int, Tensor]
    """Layer -> what enters it [point, d_model]."""

    def at(self, place: Place) -> Float[Tensor, "point feature"]:
        """What the base run has there."""
        return self.kept.values[place][0]

    @cached_property
    def end(self) -> Float[Tensor, "point d_model"]:
        return self.at(self.writer.end)

    @cached_property
    def norm(self) -> Norm:
        return Norm.of(self.writer.unembedding.norm, self.end)

    @cached_property
    def directions(self) -> Float[Tensor, "point d_model"]:
        """Of each pair's right answer against the others, at the output head."""
        weight, points, ends = self.writer.unembedding.weight, self.points, self.writer.unembedding
        rows = [
            weight[right] - (weight[wrong].mean(0) if wrong else weight.mean(0))
            for right, wrong in zip(points.right, points.wrong, strict=True)
        ]
        return ends.scale * (ends.logit_scale or 1.0) * torch.stack(rows).to(self.end)

    @cached_property
    def pulled(self) -> Float[Tensor, "point d_model"]:
        """The same in the stream behind the last layer."""
        return self.norm.pulled(self.end, self.directions)

    @property
    def bias(self) -> Float[Tensor, "point"]:
        """What the final norm and the output head add to the difference themselves."""
        ends, points = self.writer.unembedding, self.points
        every = torch.arange(len(ends.weight))
        own = [
            ends.bias(torch.tensor(right)) - ends.bias(torch.tensor(wrong) if wrong else every).mean()
            for right, wrong in zip(points.right, points.wrong, strict=True)
        ]
        head = (ends.logit_scale or 1.0) * torch.stack(own).to(self.end)
        return (self.directions * self.norm.bias).sum(-1) + head

    @property
    def difference(self) -> Float[Tensor, "point"]:
        """The logit difference itself, by the model's own norm."""
        head = self.bias - (self.directions * self.norm.bias).sum(-1)
        return (self.directions * self.norm(self.end)).sum(-1) + head

    # Towards the stream: from a matrix's input, through the matrix, a norm behind it and the layer's multiplier.

    def _post(self, layer: int, site: Site, given: Tensor) -> tuple[Norm | None, float]:
        place = self.writer.added[layer, site]
        module = post_norm(place)
        return (None if module is None else Norm.of(module, given)), place.factor

    def through(self, place: Place, layer: int, site: Site) -> tuple[Tensor, Tensor]:
        """How much each input of a matrix counts [point, feature], and what is added without any [point]."""
        matrix, values = place.module, self.at(place)
        with torch.enable_grad(), frozen(self.writer.model.module):
            given = values.detach().clone().requires_grad_()
            made = matrix(given)
            norm, factor = self._post(layer, site, made.detach())
            behind = factor * (self.pulled if norm is None else norm.pulled(made.detach(), self.pulled))
            (slope,) = torch.autograd.grad((made * behind).sum(), given)
        with torch.no_grad():
            rest = (matrix(torch.zeros_like(values)) * behind).sum(-1)
            own = 0.0 if norm is None else factor * (self.pulled * norm.bias).sum(-1)
        return slope, rest + own

    def vector(self, member: Component, values: Tensor) -> Float[Tensor, "point d_model"]:
        """What a member with these values adds to the stream."""
        writer, place = self.writer, self.writer.place(member)
        if member.site in THROUGH_HEADS or member.site is Site.MLP_NEURON:
            only = torch.zeros_like(values)
            at = features(member, place, writer.model)
            only[:, at] = values[:, at]
            made = place.module(only) - place.module(torch.zeros_like(only))
            norm, factor = self._post(member.layer, ADDER[member.site], place.module(self.at(place)))
            return factor * (made if norm is None else norm.linear(place.module(self.at(place)), made))
        only = torch.zeros_like(self.end)
        if member.site is Site.EXPERT:
            mine = values[:, features(member, place, writer.model)]
            return self._of_expert(member, mine)
        at = features(member, place, writer.model)
        only[:, at] = values[:, at]
        return only

    def _of_expert(self, member: Component, values: Tensor) -> Float[Tensor, "point d_model"]:
        place = self.writer.added[member.layer, Site.MLP_OUTPUT]
        if post_norm(place) is not None:
            raise UnsupportedSite(f"what {member} writes is not seen: a norm of all experts together is behind it")
        return place.factor * values

    def part(self, member: Component, values: Tensor) -> Float[Tensor, "point"]:
        """A member's part in the difference, with these values."""
        return (self.vector(member, values) * self.pulled).sum(-1)

    def rows(self) -> Iterator[tuple[str, Float[Tensor, "point"]]]:
        """Everything that is added, by name. Raises UnsupportedSite where the stream is no sum of it."""
        yield "embeddings", (self.streams[0] * self.pulled).sum(-1)
        for layer in self.writer.model.layers:
            yield from self._of_layer(layer.index)
        yield "final bias", self.bias

    def _of_layer(self, index: int) -> Iterator[tuple[str, Float[Tensor, "point"]]]:
        left = self.streams.get(index + 1, self.end)
        rest = left - self.streams[index]
        for site, tag in ((Site.ATTENTION_OUTPUT, "attn"), (Site.MLP_OUTPUT, "mlp")):
            place = self.writer.added.get((index, site))
            if place is None:
                continue
            rest = rest - self.at(place)
            whole = (self.at(place) * self.pulled).sum(-1)
            if site is Site.ATTENTION_OUTPUT and index in self.writer.matrices:
                yield from self._heads(index, whole)
            else:
                yield f"L{index}.{tag}", whole
        error = float(rest.norm() / left.norm())
        if error <= EXACT.get(left.dtype, 1e-4):
            return
        if (index, Site.ATTENTION_OUTPUT) in self.writer.added and (index, Site.MLP_OUTPUT) in self.writer.added:
            raise UnsupportedSite(
                f"the residual stream is not linear: layer {index} does more to it than add attention and MLP "
                f"({error:.1g} of it), so contributions to the logits and promoted tokens are left out"
            )
        yield f"L{index}.rest", (rest * self.pulled).sum(-1)

    def _heads(self, index: int, whole: Tensor) -> Iterator[tuple[str, Float[Tensor, "point"]]]:
        """Each head, and the bias; together they must be what attention adds."""
        place = self.writer.matrices[index]
        slope, bias = self.through(place, index, Site.ATTENTION_OUTPUT)
        heads = (slope * self.at(place)).reshape(len(slope), place.units, -1).sum(-1).T
        size = heads.abs().sum(0) + bias.abs() + whole.abs()
        if bool(((heads.sum(0) + bias - whole).abs() > EXACT.get(whole.dtype, 1e-4) * size).any()):
            yield f"L{index}.attn", whole
            return
        for unit, row in enumerate(heads):
            yield f"L{index}.head{unit}", row
        yield f"L{index}.attn bias", bias


def features(member: Component, place: Place, model: LanguageModel) -> slice:
    """A member's features among those of the place whose numbers go into the stream for it."""
    if member.site in (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT, Site.RESIDUAL):
        return slice(0, place.units * place.width)
    count = place.units // model.places(member.site)[member.layer].units if member.site is Site.KV_GROUP else 1
    width = place.width * max(1, count)
    start = (member.unit or 0) * width
    return slice(start, start + width)


@dataclass(eq=False)
class Writes:
    """What the members of a set write on a scorer's pairs. A base run, and for each member a swapped and a direct one.

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
        points = _Points.of(self.scorer, layout)
        base, entries, reads = self._base(layout, points)
        donors, deltas = self._swapped(layout, points, reads)
        if points.examples:
            self._note(base, donors)
        return self._directly(layout, deltas, entries)

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, len(self.scorer.space), dtype=self.scorer.model.compute_dtype)

    def _base(self, layout: Layout, points: _Points) -> tuple[_Frozen, Stations, dict[Place, Tensor]]:
        """The base run: at the points all that is added, and at every position that is read what the adders give."""
        writer, kept, reads = self.writer, _Kept(), _Kept()
        layers = self.scorer.model.layers
        passed = {one.index + 1: place for one in layers if (place := one.place(Site.RESIDUAL)) is not None}
        places = [writer.end, *writer.added.values(), *writer.matrices.values(), *map(self._place, self._seen)]
        places += passed.values()
        adders = [place for place in map(writer.adder, self.members) if place is not None]
        # Whole streams are large: only those that no output gives, and the one that direct runs start from.
        stations = Stations([one.index for one in layers if one.index not in passed or one is layers[-1]])
        more = [*kept.edits(places, points.at, 1), *reads.edits(adders, layout.read_at, 1)]
        with self.scorer.passing(layout):
            self.scorer.run(self._zeros(1), layout, stations=stations, more=more)
        at = points.at.to(self.scorer.model.device)
        streams = {i: entry.hidden.flatten(0, 1)[at.to(entry.hidden.device)] for i, entry in stations.entries.items()}
        streams |= {layer: kept.values[place][0] for layer, place in passed.items() if layer < len(layers)}
        return _Frozen(writer, points, kept, streams), stations, reads.values

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
        self, layout: Layout, points: _Points, reads: Mapping[Place, Tensor]
    ) -> tuple[dict[Component, Tensor], dict[Component, Tensor]]:
        """Each member swapped: its own values at the points, and by how much the stream moves where it is read."""
        donors: dict[Component, Tensor] = {}
        deltas: dict[Component, Tensor] = {}
        for some in self._chunks(layout):
            kept, moved, copies = _Kept(), _Kept(), len(some)
            adders = {member: place for member in some if (place := self.writer.adder(member)) is not None}
            seen = [member for member in some if member in self._seen]
            more = [
                *kept.edits([self._place(member) for member in seen], points.at, copies),
                *moved.edits(list(adders.values()), layout.read_at, copies),
            ]
            masks = torch.stack([torch.from_numpy(self.scorer.space.indicator([one])) for one in some])
            with self.scorer.passing(layout, copies):
                self.scorer.run(masks.to(self.scorer.model.compute_dtype), layout, more=more)
            for copy, member in enumerate(some):
                if member in seen:
                    donors[member] = kept.values[self._place(member)][copy]
                if member in adders:
                    deltas[member] = moved.values[adders[member]][copy] - reads[adders[member]][0]
        return donors, deltas

    def _chunks(self, layout: Layout) -> Iterator[Sequence[Component]]:
        step = max(1, self.scorer.batching.tokens // layout.cells)
        return (self.members[at : at + step] for at in range(0, len(self.members), step))

    def _directly(
        self, layout: Layout, deltas: Mapping[Component, Tensor], stations: Stations
    ) -> Float[Tensor, "member example answer"]:
        """Scores where each member's change is added behind the last layer; not a number where it is not known."""
        last = max(stations.entries)
        entry = stations.entries[last] if self.scorer.packing.shortcuts and last else None
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

    def _note(self, base: _Frozen, donors: Mapping[Component, Tensor]) -> None:
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

    def _note_member(self, i: int, member: Component, base: _Frozen, donor: Tensor, at: Tensor) -> None:
        try:
            own = base.vector(member, base.at(self._place(member)))
            self._own[0, i, at] = (own * base.pulled).sum(-1).double().cpu()
            self._own[1, i, at] = base.part(member, donor).double().cpu()
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
        """What a member writes, weighted over the pairs."""
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


def writer_of(model: LanguageModel) -> Writer | str:
    """The writer, or why there is none."""
    try:
        return Writer(model)
    except UnsupportedSite as error:
        return str(error)


def check_inside(called: str, members: Sequence[Component], names: Sequence[str], outline: str) -> None:
    """Raise InputError for a member that is not in the problem's space."""
    known = set(names)
    strange = next((str(member) for member in members if str(member) not in known), None)
    if strange is not None:
        raise InputError(
            f"{called}: {strange} is not in this component space of {outline}: name members of the space, or build the "
            "problem with the sites that hold it"
        )
