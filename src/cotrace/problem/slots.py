"""Slots: where the components of a space are applied: those of one place and role side by side, in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.components import ComponentSpace
from cotrace.donors.store import Spot
from cotrace.models import LanguageModel


@dataclass(frozen=True, eq=False)
class Slot:
    """The components of one place and role."""

    spot: Spot
    start: int
    stop: int
    """Which numbers of an ordered mask are theirs."""
    units: Int[Tensor, "component"] | None
    """The unit of each; None where they are all units of the place, in order."""

    def mask(self, ordered: Float[Tensor, "copy n"]) -> Float[Tensor, "copy unit"]:
        """The mask of every unit at the place, 0 for those outside the space."""
        part = ordered[:, self.start : self.stop]
        if self.units is None:
            return part
        return part.new_zeros(len(part), self.spot[0].units).index_copy(1, self.units.to(part.device), part)


@dataclass(frozen=True, eq=False)
class Slots:
    """All slots of a space, and the order in which they need its masks."""

    slots: tuple[Slot, ...]
    order: Int[Tensor, "n"] | None
    """The component whose number stands at each place of an ordered mask; None where the space has that order."""

    @classmethod
    def of(cls, model: LanguageModel, space: ComponentSpace) -> Slots:
        """In the order in which the space first comes to a place and role, units ascending."""
        places = {site: model.places(site) for site in space.sites}
        members: dict[Spot, tuple[list[int], list[int]]] = {}
        for block in space.blocks:
            index, units = members.setdefault((places[block.site][block.layer], block.role), ([], []))
            index += range(block.start, block.stop)
            units += block.units
        order: list[np.ndarray] = []
        slots: list[Slot] = []
        for spot, (index, units) in members.items():
            ascending = np.argsort(units)
            order.append(np.array(index)[ascending])
            own, start = np.array(units)[ascending], slots[-1].stop if slots else 0
            whole = np.array_equal(own, np.arange(spot[0].units))
            slots.append(Slot(spot, start, start + len(own), None if whole else torch.from_numpy(own)))
        together = np.concatenate(order)
        same = np.array_equal(together, np.arange(len(space)))
        return cls(tuple(slots), None if same else torch.from_numpy(together))

    @property
    def spots(self) -> list[Spot]:
        """Every place and role, once."""
        return [slot.spot for slot in self.slots]

    def ordered(self, masks: Float[Tensor, "copy n"]) -> Float[Tensor, "copy n"]:
        """Masks of the space with the numbers of each slot side by side."""
        return masks if self.order is None else masks[:, self.order.to(masks.device)]
