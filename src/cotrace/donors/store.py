"""Donor values: computed once for all pairs, and handed out as patches for any layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import Layout
from cotrace.interventions import Patch, PatternPatch, ScalePatch, ValuePatch
from cotrace.models.places import Place

Spot = tuple[Place, str]
"""A place, and the position role at which it is patched."""


@runtime_checkable
class Donors(Protocol):
    """Donor values of a fixed list of pairs, at the places of a space."""

    @property
    def nbytes(self) -> int:
        """Memory that the values take, in bytes."""

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        """The donor's part in a layout, for each spot."""


def patched_tokens(layout: Layout, role: str) -> Int[Tensor, "token"]:
    """Flat positions (row * T + pos) of the tokens that a role may patch."""
    return torch.nonzero(layout.patched(role).flatten()).flatten()


@dataclass(frozen=True, eq=False)
class RecordedDonors:
    """The values of donor runs, token by token without padding. They do not depend on z."""

    values: Mapping[Place, Float[Tensor, "token feature"]]
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
        return {(place, role): self._patch(layout, place, role, rows.get(role)) for place, role in spots}

    def _patch(self, layout: Layout, place: Place, role: str, rows: tuple[Tensor, Tensor] | None) -> Patch:
        if place in self.values:
            tokens = patched_tokens(layout, role)
            donor = self.values[place]
            source = layout.source.flatten()[tokens]
            return ValuePatch(place, tokens.to(donor.device), donor[source.to(donor.device)])
        assert rows is not None, "a pattern is recorded where it is asked for"
        return self._pattern(place, *rows)

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
        """Row of the pattern table for each (query, key) of one prompt, kept keys first; -1 for all others."""
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
