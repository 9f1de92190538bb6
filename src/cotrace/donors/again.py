"""Donor values that are not there yet: recorded anew for each forward pass that needs them, or once, when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing
from cotrace.batches.plan import donor_offsets
from cotrace.donors.store import Donors, Spot
from cotrace.interventions import Patch


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
        """Of those that are there."""
        return sum(donors.nbytes for donors in self._made)

    @property
    def made(self) -> Donors:
        """They themselves, made now unless they are there."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        """Of those."""
        return self.made.patches(layout, spots)
