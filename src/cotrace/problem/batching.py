"""Batching: how masks become forward passes, what these need not run again, and what is done when memory runs out.

Masks of one evaluation mostly agree, as the candidates of a greedy step do. What they agree on is run once; each mask
then starts at the lowest layer in which it differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import Layout
from cotrace.components import ComponentSpace
from cotrace.donors.recorded import Spot
from cotrace.errors import InputError, is_out_of_memory
from cotrace.models import LanguageModel

Checkpointing = Literal["auto", "on", "off"]


class Replan(Exception):
    """The batch in hand does not fit any more: lay its examples out anew and go on."""


@dataclass(frozen=True)
class Event:
    """A change of the batching, because memory ran out."""

    batch_tokens: int
    checkpointing: bool


class Batching:
    """Batch size that all parts of a problem share: the tokens of a forward pass now, and the changes so far."""

    def __init__(self, tokens: int, checkpointing: Checkpointing = "auto") -> None:
        self.first_tokens = self.tokens = tokens
        self.option = checkpointing
        self.checkpointing = checkpointing == "on"
        self.events: list[Event] = []

    @contextmanager
    def passing(self, layout: Layout | None, copies: int = 1, *, gradient: bool = False) -> Iterator[None]:
        """Around one forward pass of so many copies of a layout, or around several passes (None).

        Memory that runs out inside makes the batches smaller, and raises Replan, or InputError where nothing smaller is
        left to try.
        """
        tokens = self.tokens if layout is None else copies * layout.cost
        divisible = layout is None or copies > 1 or len(layout.examples) > 1
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._shrink(tokens, divisible=divisible, gradient=gradient)
            raise Replan from None

    def _shrink(self, tokens: int, *, divisible: bool, gradient: bool) -> None:
        """Half the tokens; a single example recomputes its layers' activations where that may help."""
        if divisible and self.tokens > 1:
            self.tokens = max(1, min(self.tokens, tokens) // 2)
        elif gradient and self.option == "auto" and not self.checkpointing:
            self.checkpointing = True
        else:
            raise InputError(
                f"out of memory in a forward pass of one pair alone ({tokens} tokens): use shorter prompts or answers, "
                "a smaller dtype such as bfloat16, checkpointing=on, or a device with more memory"
            ) from None
        self.events.append(Event(self.tokens, self.checkpointing))

    def follow(self, events: Sequence[Event]) -> None:
        """Take over what memory forced where a batch was run elsewhere, so that those to come are as small."""
        for event in events:
            if event.batch_tokens < self.tokens or (event.checkpointing and not self.checkpointing):
                self.tokens = min(self.tokens, event.batch_tokens)
                self.checkpointing = self.checkpointing or event.checkpointing
                self.events.append(Event(self.tokens, self.checkpointing))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        events = [asdict(event) for event in self.events]
        return {"batch_tokens": self.first_tokens, "checkpointing": self.option, "events": events}


def release(device: torch.device) -> None:
    """Give cached blocks back after a pass that did not fit."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True, eq=False)
class Passes:
    """The forward passes of some masks over a layout."""

    each: Sequence[tuple[Tensor, int]]
    """The masks of each pass, and the layer that it starts at."""
    common: Float[Tensor, "n"] | None = None
    """The mask of the run that passes above the lowest layer start from; None where all start there."""

    def some(self, which: Sequence[int]) -> Passes:
        """Only these of them."""
        return Passes([self.each[i] for i in which], self.common)

    @property
    def masks(self) -> Int[Tensor, "some"]:
        """The masks of all passes, in their order."""
        return torch.cat([some for some, _ in self.each])


WORTHWHILE = 0.9
"""Share of the layers that must remain to be run at most, for a reference run to pay."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A mask that others start from, and the layers at which they do."""

    mask: Float[Tensor, "n"]
    groups: list[tuple[int, Int[Tensor, "_"]]]
    """(layer, masks that start there), lowest layer first."""


def reference(masks: Float[Tensor, "mask n"], layers: Int[Tensor, "n"], depth: int) -> Reference | None:
    """The reference for these masks; None where it would not pay. ``layers`` are the components' own, of ``depth``."""
    if len(masks) < 2:
        return None
    common = masks.median(0).values
    differing = torch.where(masks != common, layers, depth - 1)
    starts = differing.amin(1)
    rest = float((depth - starts).sum())
    if depth + rest >= WORTHWHILE * depth * len(masks):
        return None
    groups = [(layer, torch.nonzero(starts == layer).flatten()) for layer in sorted(set(starts.tolist()))]
    return Reference(common, groups)


def component_layers(space: ComponentSpace) -> Int[Tensor, "n"]:
    """The layer of each component, in mask order."""
    return torch.tensor([component.layer for component in space])


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
        """Return groups in the order in which the space first comes to a place and role, units ascending."""
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
