"""Donor values: recorded from donor runs, kept within a budget, and computed anew beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cotrace.batches import EncodedPair, Layout, Packing, donor_layouts, donor_tokens
from cotrace.batches.packing import donor_offsets
from cotrace.interventions import Patch, PatternPatch, ScalePatch, ValuePatch, forward
from cotrace.interventions.storage import Keep, in_memory
from cotrace.models import LanguageModel, Place
from cotrace.models.hooks import Edit

Spot = tuple[Place, str]
"""A place, and the position role at which it is patched."""


@runtime_checkable
class Donors(Protocol):
    """Donor values of a fixed list of pairs, at the places of a space."""

    @property
    def nbytes(self) -> int:
        """Memory that the values take, in bytes."""

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        """The donor's part in a layout, for each spot.

        Args:
            layout: A batch of the plan.
            spots: Places with a position role.
        """


def patched_tokens(layout: Layout, role: str) -> Int[Tensor, "token"]:
    """Flat positions (row * T + pos) of the tokens that a role may patch."""
    return torch.nonzero(layout.patched(role).flatten()).flatten()


@dataclass(frozen=True, eq=False)
class RecordedDonors:
    """The values of donor runs, token by token without padding. They do not depend on z."""

    values: Mapping[Place, Float[Tensor, "token feature"]]
    """Place -> values of all tokens [token, feature]."""
    patterns: Mapping[Place, Float[Tensor, "entry head"]]
    """Attention weights, one row for each (query, key) of each prompt: prompt by prompt, query-major."""
    lengths: Int[Tensor, "prompt"]
    """Tokens of each donor prompt."""
    starts: Int[Tensor, "prompt"]
    """Flat index of each donor prompt's first token."""

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.values.values(), *self.patterns.values()))

    @property
    def positions(self) -> Int[Tensor, "token"]:
        """The position of each token in its prompt."""
        return torch.cat([torch.arange(int(length)) for length in self.lengths])

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        roles = {role for place, role in spots if place in self.patterns}
        rows: dict[str, tuple[Tensor, Tensor]] = {}
        if roles:
            entry = self.entries(layout)
            rows = {r: _patched_queries(torch.where(layout.patched(r)[:, :, None], entry, -1)) for r in roles}
        tokens = {
            role: patched_tokens(layout, role) for role in {role for place, role in spots if place in self.values}
        }
        found: dict[Spot, Patch] = {}
        for place, role in spots:
            if place in self.patterns:
                found[place, role] = self._pattern(place, *rows[role])
                continue
            donor, source = self.values[place], layout.source.flatten()[tokens[role]]
            found[place, role] = ValuePatch(place, tokens[role].to(donor.device), donor[source.to(donor.device)])
        return found

    def _pattern(
        self, place: Place, queries: Int[Tensor, "row query"], entry: Int[Tensor, "row query key"]
    ) -> PatternPatch:
        store = self.patterns[place]
        entry = entry.to(store.device)
        patched = entry >= 0
        donor = store[entry.clamp(min=0)] * patched[..., None]
        patched_ = patched[:, None].to(store.dtype)
        return PatternPatch(place, donor.permute(0, 3, 1, 2).contiguous(), patched_, queries)

    def entries(self, layout: Layout) -> Int[Tensor, "row query key"]:
        """Row of the pattern table for each (query, key) of one prompt, kept keys first; -1 for all others.

        Args:
            layout: A batch of the plan.
        """
        prompt = torch.searchsorted(self.starts, layout.source.clamp(min=0), right=True) - 1
        square = torch.cumsum(self.lengths**2, 0) - self.lengths**2
        query = layout.source - self.starts[prompt]
        key = torch.cat([layout.cached_position, query], 1)
        entry = square[prompt][:, :, None] + query[:, :, None] * self.lengths[prompt][:, :, None] + key[:, None, :]
        patched = (layout.source >= 0) & (layout.branch == 0)
        keyed = torch.cat([layout.cached_example >= 0, patched], 1)
        owner = torch.cat([layout.cached_example, layout.example], 1)
        together = layout.example[:, :, None] == owner[:, None, :]
        inside = patched[:, :, None] & keyed[:, None, :] & together
        return torch.where(inside, entry, -1)


def _patched_queries(
    entry: Int[Tensor, "row query key"],
) -> tuple[Int[Tensor, "row some"], Int[Tensor, "row some key"]]:
    """The queries of each row that have a donor, and their entries; rows that have fewer name query 0 without any."""
    hit = (entry >= 0).any(2)
    most = int(hit.sum(1).max())
    order = torch.sort(hit.byte(), dim=1, descending=True, stable=True).indices[:, :most]
    real = hit.gather(1, order)
    some = entry.gather(1, order[:, :, None].expand(-1, -1, entry.shape[2]))
    return torch.where(real, order, 0), torch.where(real[:, :, None], some, -1)


@dataclass(frozen=True, eq=False)
class ConstantDonors:
    """One value for every token: zeros, a mean, or vectors of the user's own."""

    values: Mapping[Place, Float[Tensor, "feature"]]

    @property
    def nbytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self.values.values())

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        return {
            (place, role): ValuePatch(place, patched_tokens(layout, role), self.values[place][None])
            for place, role in spots
        }


@dataclass(frozen=True, eq=False)
class PositionDonors:
    """One value for each position in the text, the same for all pairs: a mean by position."""

    values: Mapping[Place, Float[Tensor, "position feature"]]

    @property
    def nbytes(self) -> int:
        return sum(value.numel() * value.element_size() for value in self.values.values())

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        positions = layout.position_ids.flatten()
        found: dict[Spot, Patch] = {}
        for place, role in spots:
            tokens = patched_tokens(layout, role)
            found[place, role] = ValuePatch(place, tokens, self.values[place][positions[tokens]])
        return found


@dataclass(frozen=True, eq=False)
class ScaledDonors:
    """The own value times a factor."""

    factor: float
    nbytes: int = field(default=0, init=False)

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        return {(place, role): ScalePatch(place, patched_tokens(layout, role), self.factor) for place, role in spots}


Perturb = Callable[[Layout, Tensor], Tensor]
"""(layout, token embeddings [row, pos, d_model]) -> embeddings that the donor run starts from."""


def record(
    model: LanguageModel,
    pairs: Sequence[EncodedPair],
    places: Sequence[Place],
    packing: Packing,
    perturb: Perturb | None = None,
    *,
    keep: Keep = in_memory,
    layouts: Sequence[Layout] | None = None,
) -> RecordedDonors:
    """The values of the pairs' donor runs at these places, in the room that ``keep`` gives. Raises NoRoom.

    ``layouts``: the batches of those runs, where they were cut for more pairs than these.

    Args:
        model: The model.
        pairs: The pairs, as tokens.
        places: Places whose values are recorded.
        packing: How pairs share rows.
        perturb: Change of the token embeddings; None for none.
    """
    store = _empty_store(model, pairs, places, packing, keep)
    for layout in _passes(donor_layouts(pairs, packing) if layouts is None else layouts):
        edits = [(place, _recorder(store, place, layout)) for place in places]
        with torch.no_grad(), perturbed(model, layout, perturb):
            forward(model, layout, edits)
    return store


def _passes(layouts: Iterable[Layout]) -> Iterator[Layout]:
    """The forward passes of the donor runs."""
    return (layout for whole in layouts for layout in whole.passes)


def mean_values(
    model: LanguageModel, pairs: Sequence[EncodedPair], places: Sequence[Place], packing: Packing, per_position: bool
) -> dict[Place, Float[Tensor, "position feature"]]:
    """The mean value at each place over the tokens of the pairs' donor runs: one row, or one for each position.

    Sums run along with the passes, in double precision, so that no more than one pass is in memory.
    """
    _, lengths = _sizes(pairs, packing)
    rows = int(lengths.max()) if per_position else 1
    sums = {place: torch.zeros(rows, place.units * place.width, dtype=torch.float64) for place in places}
    counts = torch.zeros(rows, dtype=torch.float64)
    for layout in _passes(donor_layouts(pairs, packing)):
        real = torch.nonzero(layout.source.flatten() >= 0).flatten()
        at = layout.position_ids.flatten()[real] if per_position else torch.zeros_like(real)
        counts += torch.bincount(at, minlength=rows)
        edits = [(place, _adder(sums[place], real, at)) for place in places]
        with torch.no_grad():
            forward(model, layout, edits)
    return {place: (total / counts[:, None]).to(model.device, model.dtype) for place, total in sums.items()}


def _adder(total: Float[Tensor, "row feature"], real: Int[Tensor, "token"], at: Int[Tensor, "token"]) -> Edit:
    """Adds the values of these tokens of a pass to the rows that they belong to."""

    def add(own: Tensor) -> Tensor:
        values = own.reshape(-1, total.shape[1])[real.to(own.device)]
        total.index_add_(0, at, values.to("cpu", torch.float64))
        return own

    return add


def _empty_store(
    model: LanguageModel, pairs: Sequence[EncodedPair], places: Sequence[Place], packing: Packing, keep: Keep
) -> RecordedDonors:
    tokens, lengths = _sizes(pairs, packing)
    total, squares = int(tokens.sum()), int((lengths**2).sum())
    like = torch.empty(0, dtype=model.dtype, device=model.device)
    values = {p: keep(like, (total, p.units * p.width)) for p in places if p.side != "pattern"}
    patterns = {p: keep(like, (squares, p.units)) for p in places if p.side == "pattern"}
    return RecordedDonors(values, patterns, lengths, torch.cumsum(tokens, 0) - tokens)


def _sizes(pairs: Sequence[EncodedPair], packing: Packing) -> tuple[Int[Tensor, "prompt"], Int[Tensor, "prompt"]]:
    """Donor tokens of each pair, and of its prompt alone."""
    tokens = torch.tensor([donor_tokens(pair, packing.patch_answers) for pair in pairs])
    return tokens, torch.tensor([len(pair.donor or pair.prompt) for pair in pairs])


def recorded_bytes(pairs: Sequence[EncodedPair], places: Sequence[Place], packing: Packing, dtype: torch.dtype) -> int:
    """Return the bytes that ``record`` would keep for these pairs."""
    tokens, lengths = _sizes(pairs, packing)
    total, squares = int(tokens.sum()), int((lengths**2).sum())
    return dtype.itemsize * sum(squares * p.units if p.side == "pattern" else total * p.units * p.width for p in places)


@contextmanager
def perturbed(model: LanguageModel, layout: Layout, perturb: Perturb | None) -> Iterator[None]:
    """Token embeddings as ``perturb`` makes them; as before afterwards."""
    if perturb is None:
        yield
        return

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return perturb(layout, output)

    handle = model.module.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _recorder(store: RecordedDonors, place: Place, layout: Layout) -> Edit:
    def keep(own: Tensor) -> Tensor:
        if place.side == "pattern":
            _keep_pattern(store, place, layout, own)
        else:
            flat = layout.source.flatten()
            real = torch.nonzero(flat >= 0).flatten()
            values = store.values[place]
            rows = own.reshape(flat.numel(), -1)[real.to(own.device)]
            values[flat[real].to(values.device)] = rows.to(values.device)
        return own

    return keep


def _keep_pattern(store: RecordedDonors, place: Place, layout: Layout, own: Tensor) -> None:
    entry = store.entries(layout).to(own.device)
    row, query, key = torch.nonzero(entry >= 0, as_tuple=True)
    patterns = store.patterns[place]
    patterns[entry[row, query, key].to(patterns.device)] = own[row, :, query, key].to(patterns.device)


@dataclass(frozen=True, eq=False)
class RecomputedDonors:
    """Runs the donor prompts of a layout's examples whenever they are asked for, and keeps nothing."""

    make: Callable[[Sequence[EncodedPair]], Donors]
    """Donor values of some pairs, which must not depend on the others."""
    pairs: Sequence[EncodedPair]
    packing: Packing
    nbytes: int = field(default=0, init=False)

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        some = [self.pairs[example] for example in layout.examples]
        return self.make(some).patches(replace(layout, source=self._renumbered(layout, some)), spots)

    @cached_property
    def _offsets(self) -> list[int]:
        """Flat index of each pair's first donor token among those of all."""
        return donor_offsets(self.pairs, self.packing)

    def _renumbered(self, layout: Layout, some: Sequence[EncodedPair]) -> Int[Tensor, "row pos"]:
        """Flat donor tokens as they are counted among the layout's own examples."""
        own = donor_offsets(some, self.packing)
        shift = torch.tensor([self._offsets[example] - own[i] for i, example in enumerate(layout.examples)])
        return torch.where(layout.source >= 0, layout.source - shift[layout.example.clamp(min=0)], -1)


class DelayedDonors:
    """Donor values that are made when they are first asked for: where batches are run elsewhere, perhaps never."""

    def __init__(self, make: Callable[[], Donors]) -> None:
        self._make, self._made = make, list[Donors]()

    @property
    def nbytes(self) -> int:
        """Bytes of the donors that are there."""
        return sum(donors.nbytes for donors in self._made)

    @property
    def made(self) -> Donors:
        """Return the donors, made now unless they are there."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        """Return the patches of the donors that are there."""
        return self.made.patches(layout, spots)
