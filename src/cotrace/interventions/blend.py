"""The soft intervention, and the edits that carry it out at the places of a layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.models.places import Place
from cotrace.models.taps import Edit, PatternChange


def blend(
    own: Float[Tensor, "*shape"], donor: Float[Tensor, "*#shape"], z: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Soft intervention: (1 - z) own + z donor; exactly own at z = 0 and donor at z = 1. (Yan et al. 2026.)

    Half-precision values are blended in the precision of the mask.
    """
    if own.dtype == z.dtype:
        return torch.lerp(own, donor.to(own.dtype), z)
    return torch.lerp(own.to(z.dtype), donor.to(z.dtype), z).to(own.dtype)


@dataclass(frozen=True, eq=False)
class ValuePatch:
    """Donor values for the tokens of a layout at one place."""

    place: Place
    tokens: Int[Tensor, "token"]
    """Flat positions (row * T + pos) that have a donor."""
    donor: Float[Tensor, "#token feature"]
    """One row for each token, or one for all."""

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Blend the donor in, each copy of the rows with its own mask."""
        copies, units = z.shape

        def apply(own: Tensor) -> Tensor:
            flat = own.reshape(copies, -1, units, self.place.width)
            tokens, share = self.tokens.to(own.device), z.to(own.device)[:, None, :, None]
            donor = self.donor.to(own.device).reshape(-1, units, self.place.width)
            blended = blend(flat.index_select(1, tokens), donor[None], share)
            return flat.index_copy(1, tokens, blended).reshape(own.shape)

        return apply


@dataclass(frozen=True, eq=False)
class ScalePatch:
    """The own value times a factor, in the stead of donor values."""

    place: Place
    tokens: Int[Tensor, "token"]
    factor: float

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Blend the scaled value in: own (1 - z + z factor)."""
        copies, units = z.shape

        def apply(own: Tensor) -> Tensor:
            flat = own.reshape(copies, -1, units, self.place.width)
            tokens, share = self.tokens.to(own.device), z.to(own.device)[:, None, :, None]
            mine = flat.index_select(1, tokens)
            return flat.index_copy(1, tokens, blend(mine, self.factor * mine, share)).reshape(own.shape)

        return apply


@dataclass(frozen=True, eq=False)
class ShiftPatch:
    """A fixed difference that is added to the own value."""

    place: Place
    tokens: Int[Tensor, "token"]
    """Flat positions (row * T + pos) that are shifted."""
    shift: Float[Tensor, "token feature"]

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Add the share z of the difference: own + z shift."""
        copies, units = z.shape

        def apply(own: Tensor) -> Tensor:
            flat = own.reshape(copies, -1, units, self.place.width)
            tokens, share = self.tokens.to(own.device), z.to(own)[:, None, :, None]
            shift = self.shift.to(own).reshape(1, -1, units, self.place.width)
            return flat.index_add(1, tokens, share * shift).reshape(own.shape)

        return apply


@dataclass(frozen=True, eq=False)
class PatternPatch:
    """Donor attention weights for the prompts of a layout at one place."""

    place: Place
    donor: Float[Tensor, "row unit query key"]
    """Zero outside the prompts."""
    patched: Float[Tensor, "row 1 query key"]
    """1 where query and key stand in the prompt of one example, else 0."""
    queries: Int[Tensor, "row query"] | None = None
    """Which queries of a row these are; the rest of a row is not touched. None where they are all, in order."""

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Blend the donor's weights in; values stay the running ones."""
        return self._whole(z) if self.queries is None else self._some(z, self.queries)

    def _whole(self, z: Float[Tensor, "copy unit"]) -> Edit:
        def apply(own: Tensor) -> Tensor:
            weights = own.reshape(len(z), -1, *own.shape[1:])
            share = z.to(own.device)[:, None, :, None, None] * self.patched.to(own.device)
            return blend(weights, self.donor.to(own.device), share).reshape(own.shape)

        return apply

    def _some(self, z: Float[Tensor, "copy unit"], queries: Int[Tensor, "row query"]) -> Edit:
        """Only the change of the queries that change: little is computed, and little kept for the backward pass."""

        def apply(own: Tensor) -> PatternChange:
            share = z.to(own.device)[:, None, :, None, None]
            where = queries.to(own.device).repeat(len(z), 1)
            mine = own.gather(2, where[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3]))
            donor, patched = (t.to(own.device, z.dtype) for t in (self.donor, self.patched))
            gap = (donor - mine.to(z.dtype).reshape(len(z), *donor.shape)) * patched
            return PatternChange(where, (share * gap).to(own.dtype).reshape(mine.shape))

        return apply


PlainPatch = ValuePatch | ScalePatch | ShiftPatch | PatternPatch
