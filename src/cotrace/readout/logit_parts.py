"""The logit difference as a sum: what every part that is added to the residual stream does to it.

At the frozen scale of the norms that are passed on the way, the logit difference between a pair's answers is a sum over
what the embeddings, every head, every MLP and the biases have added to the stream (direct logit attribution, Elhage et
al. 2021, A Mathematical Framework for Transformer Circuits).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import Layout
from cotrace.components import OF_DICTIONARIES, Component, Site
from cotrace.errors import UnsupportedSite
from cotrace.interventions import RunningFeatures
from cotrace.models import LanguageModel, Place
from cotrace.models.attention_interface import fresh_frequencies
from cotrace.models.hooks import Edit
from cotrace.models.language_model import evaluating
from cotrace.models.stream import EXACT, Norm, Unembedding, post_norm
from cotrace.problem.scorer import Scorer

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
class Points:
    """Positions of one forward pass at which each pair's answers are told apart, and by which tokens."""

    examples: list[int]
    at: Int[Tensor, "point"]
    """Flat positions (row * T + pos)."""
    right: list[int]
    wrong: list[list[int]]
    """Tokens of the other answers; empty where there is none."""

    @classmethod
    def of(cls, scorer: Scorer, layout: Layout) -> Points:
        """Return the points of pairs whose right answer this pass scores and whose answers' tokens differ somewhere."""
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
class Kept:
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
        if self.site(member) in THROUGH_HEADS:
            if member.layer not in self.matrices or (member.layer, Site.ATTENTION_OUTPUT) not in self.added:
                raise UnsupportedSite(f"what {member} writes is not seen: its heads are not put together by one matrix")
            return self.matrices[member.layer]
        if member.site in ADDER and (member.layer, ADDER[member.site]) not in self.added:
            raise UnsupportedSite(f"what {member} writes is not seen: its layer's MLP is not found in the stream")
        return self.host(member)

    def host(self, member: Component) -> Place:
        """Return the place of a member; of a feature or an error, the place whose value it is a part of."""
        place = self.model.places(member.site)[member.layer]
        return place if place.dictionary is None else place.dictionary.write

    def site(self, member: Component) -> Site:
        """Return the member's site, or the one that it is a part of."""
        return self.host(member).site if member.site in OF_DICTIONARIES else member.site

    def needs(self, member: Component) -> list[Place]:
        """Return the places whose base values tell what the member writes. Raises UnsupportedSite."""
        placed = self.model.places(member.site)[member.layer].dictionary
        return [self.place(member), *(() if placed is None else placed.hosts)]

    def joint(self, layer: int) -> Place:
        """Return the place where a layer's experts are summed: the next norm's input, or the addition to the stream."""
        place = self.added[layer, Site.MLP_OUTPUT]
        norm = post_norm(place)
        return place if norm is None else replace(place, module=norm, side="input")

    def adder(self, member: Component) -> Place | None:
        """The place behind which a member's layer is in the stream; None where that is not known."""
        if (site := self.site(member)) in ADDER:
            return self.added.get((member.layer, ADDER[site]))
        return self.host(member)


@dataclass(eq=False)
class Frozen:
    """The base run at the points of one pass: streams, what is added, and every norm at the scale that it had."""

    writer: Writer
    points: Points
    kept: Kept
    streams: Mapping[int, Tensor]
    """Layer -> what enters it [point, d_model]."""

    def at(self, place: Place) -> Float[Tensor, "point feature"]:
        """Return the base run's value there."""
        return self.kept.values[place][0]

    @cached_property
    def end(self) -> Float[Tensor, "point d_model"]:
        return self.at(self.writer.end)

    @cached_property
    def norm(self) -> Norm:
        return Norm.of(self.writer.unembedding.norm, self.end)

    @cached_property
    def directions(self) -> Float[Tensor, "point d_model"]:
        """Return the direction of each pair's right answer against the others, at the output head."""
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
        """Return the part of the difference that the final norm and the output head add themselves."""
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
        """Return the weight of each input of a matrix [point, feature], and the constant [point]."""
        matrix, values = place.module, self.at(place)
        with torch.enable_grad(), evaluating(self.writer.model.module):
            given = values.detach().clone().requires_grad_()
            made = matrix(given)
            norm, factor = self._post(layer, site, made.detach())
            behind = factor * (self.pulled if norm is None else norm.pulled(made.detach(), self.pulled))
            (slope,) = torch.autograd.grad((made * behind).sum(), given)
        with torch.no_grad():
            rest = (matrix(torch.zeros_like(values)) * behind).sum(-1)
            own = 0.0 if norm is None else factor * (self.pulled * norm.bias).sum(-1)
        return slope, rest + own

    def own(self, member: Component) -> Float[Tensor, "point feature"]:
        """Return a member's value in the base run: its place's value, or the part of a dictionary."""
        place = self.writer.place(member)
        placed = self.writer.model.places(member.site)[member.layer].dictionary
        if placed is None:
            return self.at(place)
        written, head = self.at(placed.write), placed.write.head
        if not torch.equal(written, self.at(place) if head is None else self.at(place)[:, head.where]):
            raise UnsupportedSite(f"what {member} writes is not seen: a gate is between it and the output matrix")
        values = RunningFeatures.seen(placed, self.at(placed.read), written)
        added = values.added(member, values.value(member)[0]).to(written)
        return added if head is None else head.padded(added)

    def swapped(self, member: Component, values: Tensor) -> Float[Tensor, "point feature"]:
        """The same of a run in which the member alone is swapped, from the place's values in that run."""
        if member.site not in OF_DICTIONARIES:
            return values
        return self.own(member) + values - self.at(self.writer.place(member))

    def vector(self, member: Component, values: Tensor) -> Float[Tensor, "point d_model"]:
        """Return the addition of a member with these values to the stream."""
        writer, place, site = self.writer, self.writer.place(member), self.writer.site(member)
        if site in THROUGH_HEADS or site is Site.MLP_NEURON:
            only = torch.zeros_like(values)
            at = features(member, place, writer.model)
            only[:, at] = values[:, at]
            made = place.module(only) - place.module(torch.zeros_like(only))
            norm, factor = self._post(member.layer, ADDER[site], place.module(self.at(place)))
            return factor * (made if norm is None else norm.linear(place.module(self.at(place)), made))
        only = torch.zeros_like(self.end)
        if member.site is Site.EXPERT:
            mine = values[:, features(member, place, writer.model)]
            return self._of_expert(member, mine)
        at = features(member, place, writer.model)
        only[:, at] = values[:, at]
        return only

    def _of_expert(self, member: Component, values: Tensor) -> Float[Tensor, "point d_model"]:
        """Behind the norm of all experts together, where there is one, at the scale that it has for all of them."""
        joint = self.at(self.writer.joint(member.layer))
        norm, factor = self._post(member.layer, Site.MLP_OUTPUT, joint)
        return factor * (values if norm is None else norm.linear(joint, values))

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
    if member.site in (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT, Site.RESIDUAL, *OF_DICTIONARIES):
        return slice(0, place.units * place.width)
    count = place.units // model.places(member.site)[member.layer].units if member.site is Site.KV_GROUP else 1
    width = place.width * max(1, count)
    start = (member.unit or 0) * width
    return slice(start, start + width)


def writer_of(model: LanguageModel) -> Writer | str:
    """The writer, or why there is none."""
    try:
        return Writer(model)
    except UnsupportedSite as error:
        return str(error)
