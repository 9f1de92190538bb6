"""Shares: what a worker must be given of a plan to run one batch of it, and what that will cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import count
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing, donor_layouts, donor_tokens, prefix_layouts
from cotrace.batches.packing import donor_offsets, prefix_offsets
from cotrace.components import ComponentSpace, Site
from cotrace.donors import Donors, DonorSource, RecordedDonors
from cotrace.donors.features import FeatureValues, JointDonors
from cotrace.donors.recorded import ConstantDonors, PositionDonors, RecomputedDonors, ScaledDonors, recorded_bytes
from cotrace.errors import InputError
from cotrace.metrics.metric import Reads
from cotrace.models import LanguageModel, Place
from cotrace.problem.batching import Checkpointing, Slots
from cotrace.problem.builder import recorded_elsewhere
from cotrace.problem.language import LanguageProblem
from cotrace.problem.scored import PairProblem
from cotrace.problem.scorer import Scorer
from cotrace.problem.set_metric import SetProblem


@dataclass(frozen=True)
class Sent:
    """Something that lies in the object store: fetched once by each worker, and known by its key from then on."""

    key: str
    ref: Any


Put = Callable[[Any], Sent]
Picks = tuple[tuple[int, int], ...]
"""(batch of donor or prefix runs, place in it) of each example, in the order of the examples."""


@dataclass(frozen=True, eq=False)
class Shared:
    """Donor values that are the same for all pairs, by site and layer: a place holds a module, which stays here."""

    donors: ScaledDonors | None
    kind: type[ConstantDonors] | type[PositionDonors] = ConstantDonors
    values: Mapping[tuple[Site, int], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, donors: ConstantDonors | PositionDonors | ScaledDonors) -> Shared:
        """Return these values."""
        if isinstance(donors, ScaledDonors):
            return cls(donors)
        return cls(None, type(donors), _unplaced(donors.values))

    def at(self, places: Sequence[Place], model: LanguageModel) -> Donors:
        """The same at the places of another replica of the model."""
        if self.donors is not None:
            return self.donors
        return self.kind({place: self.values[place.site, place.layer] for place in places})


@dataclass(frozen=True, eq=False)
class Given:
    """Recorded values of some pairs, made by the driver: who knows whether a user's source looks at other pairs too."""

    values: Mapping[tuple[Site, int], Tensor]
    patterns: Mapping[tuple[Site, int], Tensor]
    lengths: Tensor
    starts: Tensor

    @classmethod
    def of(cls, donors: RecordedDonors) -> Given:
        """Return these values."""
        return cls(_unplaced(donors.values), _unplaced(donors.patterns), donors.lengths, donors.starts)

    def at(self, places: Sequence[Place], model: LanguageModel) -> RecordedDonors:
        """The same at the places of another replica of the model."""
        device = model.device
        found = {place: (place.site, place.layer) for place in places}
        values = {place: self.values[key].to(device) for place, key in found.items() if key in self.values}
        patterns = {place: self.patterns[key].to(device) for place, key in found.items() if key in self.patterns}
        return RecordedDonors(values, patterns, self.lengths, self.starts)

    @property
    def nbytes(self) -> int:
        return sum(one.numel() * one.element_size() for one in (*self.values.values(), *self.patterns.values()))


@dataclass(frozen=True, eq=False)
class GivenFeatures:
    """Features of some pairs, made by the driver, in the order of the model's dictionaries, and what is beside them."""

    plain: Given | Shared | None
    features: Mapping[int, FeatureValues]

    @classmethod
    def of(
        cls, donors: JointDonors, plain: Given | Shared | None, tokens: Tensor, model: LanguageModel
    ) -> GivenFeatures:
        """The values of these donor tokens."""
        here = torch.device("cpu")
        found = {model.dictionaries.index(one): it.of_tokens(tokens).to(here) for one, it in donors.features.items()}
        return cls(plain, found)

    def at(self, places: Sequence[Place], model: LanguageModel) -> JointDonors:
        """The same at the places of another replica of the model."""
        plain = [place for place in places if place.dictionary is None]
        beside = None if self.plain is None else self.plain.at(plain, model)
        return JointDonors(beside, {model.dictionaries[i]: it.to(model.device) for i, it in self.features.items()})


def _unplaced(values: Mapping[Place, Tensor]) -> dict[tuple[Site, int], Tensor]:
    return {(place.site, place.layer): value.cpu() for place, value in values.items()}


def is_shared(donors: Donors | None) -> TypeGuard[ConstantDonors | PositionDonors | ScaledDonors]:
    """Whether these are the same for all pairs."""
    return isinstance(donors, (ConstantDonors, PositionDonors, ScaledDonors))


def check_sendable(scorer: Scorer) -> None:
    """Raise InputError for donor values of a kind of the user's own, which cannot be sent in parts."""
    if recorded_elsewhere(scorer.source, scorer.space) or is_shared(scorer.donors):
        return
    if not isinstance(scorer.donors, RecordedDonors | RecomputedDonors | JointDonors):
        raise _not_sendable(scorer, scorer.donors)


def _not_sendable(scorer: Scorer, donors: Donors) -> InputError:
    return InputError(
        f"donors={getattr(scorer.source, 'name', '')!r} gives {type(donors).__name__}, which cannot be handed out to "
        "workers: leave workers out, or let its donors() give what setting.record(pairs) gives"
    )


@dataclass(frozen=True, eq=False)
class Question:
    """Data that all batches of a scorer share."""

    model: Sent
    space: ComponentSpace
    source: DonorSource | None
    """Records donor values on the worker; None where they come from here."""
    shared: Shared | None
    """Values that are the same for all pairs; others that come from here are with their batch."""
    packing: Packing
    """Packing of the donor runs."""
    mean: bool
    reads: Reads
    columns: int
    checkpointing: Checkpointing
    memory: str | float | int | None = None
    """Most memory for donor values and prefixes on a worker."""


@dataclass(frozen=True, eq=False)
class Runs:
    """One batch of donor or prefix runs: its pairs, and its layout, which counts among these."""

    pairs: tuple[EncodedPair, ...]
    layout: Layout


@dataclass(frozen=True, eq=False)
class Batch:
    """One layout with its pairs, both counting among these, and the runs that its donor values come from."""

    pairs: tuple[EncodedPair, ...]
    layout: Layout
    donors: tuple[tuple[Sent, ...], Picks]
    prefixes: tuple[tuple[Sent, ...], Picks]
    given: Given | GivenFeatures | None = None
    """Donor values that were made here."""


@dataclass(eq=False)
class _Kind:
    """The batches of one kind of runs, and where each example is in them."""

    layouts: Sequence[Layout]
    offsets: Sequence[int]
    """Flat index of each example's first token."""
    own_offsets: Callable[[Sequence[EncodedPair]], Sequence[int]]
    sent: dict[int, Sent] = field(default_factory=dict)

    @cached_property
    def where(self) -> dict[int, tuple[int, int]]:
        """Example -> (batch, place in it)."""
        return {e: (b, i) for b, layout in enumerate(self.layouts) for i, e in enumerate(layout.examples)}


class Cut:
    """A scorer's plan, cut into what workers are given."""

    def __init__(self, scorer: Scorer, packing: Packing, put: Put) -> None:
        self._pairs, self._put, self._scorer, self._packing = scorer.pairs, put, scorer, packing
        recorded = recorded_elsewhere(scorer.source, scorer.space)
        self._gives = not recorded and not is_shared(scorer.donors)

        def tokens(pairs: Sequence[EncodedPair]) -> Sequence[int]:
            return donor_offsets(pairs, packing)

        layouts = donor_layouts(scorer.pairs, packing) if recorded else []
        self._donors = _Kind(layouts, tokens(scorer.pairs), tokens)
        self._prefixes = _Kind(prefix_layouts(scorer.pairs, packing), prefix_offsets(scorer.pairs), prefix_offsets)
        self._batches: WeakKeyDictionary[Layout, Sent] = WeakKeyDictionary()

    def batch(self, layout: Layout) -> Sent:
        """The batch's data for a worker; put in the store once."""
        if layout not in self._batches:
            self._batches[layout] = self._put(self._made(layout))
        return self._batches[layout]

    def _made(self, layout: Layout) -> Batch:
        pairs = tuple(self._pairs[e] for e in layout.examples)
        own = self._local(layout, pairs, self._donors)
        given = self._given(layout, pairs) if self._gives else None
        return Batch(pairs, own, self._runs(layout, self._donors), self._runs(layout, self._prefixes), given)

    def _given(self, layout: Layout, pairs: Sequence[EncodedPair]) -> Given | GivenFeatures:
        """The donor values of these pairs. Raises InputError for values of another kind than recorded ones."""
        donors, examples, offsets = self._scorer.donors, tuple(layout.examples), self._donors.offsets
        if isinstance(donors, RecomputedDonors):
            donors, examples, offsets = donors.make(pairs), tuple(range(len(pairs))), self._donors.own_offsets(pairs)
        if not isinstance(donors, JointDonors):
            return self._recorded(donors, examples, pairs)
        plain, beside = donors.plain, None
        if plain is not None:
            beside = Shared.of(plain) if is_shared(plain) else self._recorded(plain, examples, pairs)
        counts = [donor_tokens(pair, self._packing.patch_answers) for pair in pairs]
        tokens = [torch.arange(offsets[e], offsets[e] + n) for e, n in zip(examples, counts, strict=True)]
        return GivenFeatures.of(donors, beside, torch.cat(tokens), self._scorer.model)

    def _recorded(self, donors: Donors, examples: Sequence[int], pairs: Sequence[EncodedPair]) -> Given:
        if not isinstance(donors, RecordedDonors):
            raise _not_sendable(self._scorer, donors)
        places = (*donors.values, *donors.patterns)
        picks = [(0, example) for example in examples]
        return Given.of(joined_donors([donors], picks, pairs, places, answers=self._packing.patch_answers))

    def _local(self, layout: Layout, pairs: Sequence[EncodedPair], kind: _Kind) -> Layout:
        """The layout with examples, donor tokens and kept tokens counted among its own."""
        source = _shifted(layout.source, layout.example, layout.examples, kind, pairs)
        kept = _shifted(layout.cached, layout.cached_example, layout.examples, self._prefixes, pairs)
        beside = tuple(self._local(other, pairs, kind) for other in layout.beside)
        return replace(layout, examples=tuple(range(len(pairs))), source=source, cached=kept, beside=beside)

    def _runs(self, layout: Layout, kind: _Kind) -> tuple[tuple[Sent, ...], Picks]:
        places = [kind.where[e] for e in layout.examples if e in kind.where]
        numbers = sorted({number for number, _ in places})
        picks = tuple((numbers.index(number), at) for number, at in places)
        return tuple(self._run(kind, number) for number in numbers), picks

    def _run(self, kind: _Kind, number: int) -> Sent:
        if number not in kind.sent:
            layout = kind.layouts[number]
            pairs = tuple(self._pairs[e] for e in layout.examples)
            kind.sent[number] = self._put(Runs(pairs, self._local(layout, pairs, kind)))
        return kind.sent[number]


def _shifted(
    tokens: Tensor, example: Tensor, examples: Sequence[int], kind: _Kind, pairs: Sequence[EncodedPair]
) -> Tensor:
    """Flat tokens of all pairs as they are counted among some of them; -1 stays."""
    own = kind.own_offsets(pairs)
    shift = torch.tensor([kind.offsets[e] - own[i] for i, e in enumerate(examples)])
    return torch.where(tokens >= 0, tokens - shift[example.clamp(min=0)], -1)


def joined_donors(
    tables: Sequence[RecordedDonors],
    picks: Sequence[tuple[int, int]],
    pairs: Sequence[EncodedPair],
    places: Sequence[Place],
    *,
    answers: bool,
) -> RecordedDonors:
    """The donor values of some pairs out of the batches in which they were recorded."""
    squares = [torch.cumsum(table.lengths**2, 0) - table.lengths**2 for table in tables]
    tokens = [donor_tokens(pair, answers) for pair in pairs]
    lengths = torch.tensor([int(tables[b].lengths[i]) for b, i in picks])
    spans = [
        slice(int(tables[b].starts[i]), int(tables[b].starts[i]) + n) for (b, i), n in zip(picks, tokens, strict=True)
    ]
    blocks = [slice(int(squares[b][i]), int(squares[b][i] + tables[b].lengths[i] ** 2)) for b, i in picks]

    def values(place: Place) -> Tensor:
        return torch.cat([tables[b].values[place][span] for (b, _), span in zip(picks, spans, strict=True)])

    def patterns(place: Place) -> Tensor:
        return torch.cat([tables[b].patterns[place][block] for (b, _), block in zip(picks, blocks, strict=True)])

    counts = torch.tensor(tokens)
    return RecordedDonors(
        {place: values(place) for place in places if place.side != "pattern"},
        {place: patterns(place) for place in places if place.side == "pattern"},
        lengths,
        torch.cumsum(counts, 0) - counts,
    )


STORED_FLOATS = 4
"""Bytes of a mask's entry and of a gradient's."""


@dataclass(frozen=True)
class Costs:
    """Time, memory and traffic of a run with so many workers."""

    workers: int
    seconds: float
    """Seconds, with all workers as fast as this process and none lost."""
    share_s: float
    """Share of the time of one process that is left: what the last round of batches leaves idle is counted."""
    worker_bytes: int
    """Weights, and donor values of its share of the batches; activations of one forward pass come on top."""
    store_bytes: int
    """Tokens of all batches and of their donor runs; of a model that was made in memory, its weights too."""
    round_bytes: int
    """Bytes that one gradient sends and brings, all batches together."""


def costs(problem: LanguageProblem, seconds: float, workers: int) -> Costs:
    """Predict the costs from the plan and the seconds of one process; nothing is run and no worker begun."""
    scorers = list(_scorers(problem))
    batches = len(problem.training.scorer.all_layouts)
    share = math.ceil(batches / workers) / batches
    weights = int(problem.model.module.get_memory_footprint())
    donors = sum(_donor_bytes(problem.model, problem.space, scorer) for scorer in scorers)
    stored = sum(map(_stored_bytes, scorers)) + (weights if problem.model.loaded is None else 0)
    sent = 2 * batches * STORED_FLOATS * len(problem.space)
    return Costs(workers, seconds * share, share, weights + math.ceil(donors / workers), stored, sent)


def _scorers(problem: LanguageProblem) -> Sequence[Scorer]:
    found: list[Scorer] = []
    parts: list[PairProblem | SetProblem] = list(problem.counted_parts.values())
    for part in parts:
        found.append(part.scorer)
        parts += part.draws if isinstance(part, PairProblem) else []
    return found


def _donor_bytes(model: LanguageModel, space: ComponentSpace, scorer: Scorer) -> int:
    if not recorded_elsewhere(scorer.source, space):
        return scorer.donors.nbytes
    places = tuple(dict.fromkeys(place for place, _ in Slots.of(model, space).spots))
    return recorded_bytes(scorer.pairs, places, scorer.packing, model.dtype)


def _stored_bytes(scorer: Scorer) -> int:
    """Return the stored bytes of all batches of a scorer: each is put in the store once, and fetched by who runs it."""
    total, numbers = 0, count()

    def put(value: Batch | Runs) -> Sent:
        nonlocal total
        total += layout_bytes(value.layout) + sum(len(repr(pair)) for pair in value.pairs)
        return Sent(str(next(numbers)), None)

    cut = Cut(scorer, scorer.packing, put)
    for layout in scorer.all_layouts:
        cut.batch(layout)
    return total


def layout_bytes(layout: Layout) -> int:
    """Return the bytes of the tensors of a layout and of those beside it."""
    own = [getattr(layout, field.name) for field in fields(layout)]
    tensors = [*(one for one in own if isinstance(one, Tensor)), *layout.roles.values()]
    return sum(one.numel() * one.element_size() for one in tensors) + sum(map(layout_bytes, layout.beside))
