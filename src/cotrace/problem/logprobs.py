"""Log-probabilities and logits that a metric reads, and which runs and layers of an evaluation need not be run again.

Masks of one evaluation mostly agree, as the candidates of a greedy step do. What they agree on is run once; each mask
then starts at the lowest layer in which it differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import EncodedPair, Layout
from cotrace.components import ComponentSpace
from cotrace.donors.recorded import Spot
from cotrace.models import LanguageModel

Logits = Float[Tensor, "mask read token"]


def answer_lengths(pairs: Sequence[EncodedPair], columns: int | None = None) -> Int[Tensor, "example answer"]:
    """Tokens of each answer, 1 in the columns that an example leaves empty."""
    columns = columns or max(len(pair.answers) for pair in pairs)
    rows = [[len(a) for a in pair.answers] + [1] * (columns - len(pair.answers)) for pair in pairs]
    return torch.tensor(rows)


def answer_scores(logits: Logits, layout: Layout) -> Float[Tensor, "mask example answer"]:
    """log p of each scored token, summed over its answer."""
    normaliser = torch.logsumexp(logits, -1)
    read, token = layout.scored_read.to(logits.device), layout.scored_token.to(logits.device)
    scored = logits.flatten(1).index_select(1, read * logits.shape[-1] + token)
    log_p = (scored - normaliser.index_select(1, read)).cpu()
    cells = log_p.new_zeros(len(logits), len(layout.examples) * layout.answers)
    return cells.index_add(1, layout.scored_cell, log_p).reshape(len(logits), -1, layout.answers)


def next_logits(logits: Logits, layout: Layout) -> Float[Tensor, "mask example token"]:
    """The logits at each example's last prompt position, from which the first token of its first answer is read."""
    example = (layout.scored_cell // layout.answers).numpy()
    first = torch.from_numpy(np.unique(example, return_index=True)[1])
    return logits[:, layout.scored_read[first].to(logits.device)].cpu()


WORTHWHILE = 0.9
"""Share of the layers that must remain to be run at most, for a reference run to pay."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A mask that others start from, and the layer at which each of them does."""

    mask: Float[Tensor, "n"]
    starts: Int[Tensor, "mask"]

    @property
    def groups(self) -> list[tuple[int, Int[Tensor, "some"]]]:
        """(layer, masks that start there), lowest layer first."""
        return [
            (int(layer), torch.nonzero(self.starts == layer).flatten()) for layer in sorted(set(self.starts.tolist()))
        ]


def reference(masks: Float[Tensor, "mask n"], layers: Int[Tensor, "n"], depth: int) -> Reference | None:
    """The reference for these masks; None where it would not pay. ``layers`` are the components' own, of ``depth``."""
    if len(masks) < 2:
        return None
    common = masks.median(0).values
    differing = torch.where(masks != common, layers, depth - 1)
    starts = differing.amin(1)
    rest = float((depth - starts).sum())
    return Reference(common, starts) if depth + rest < WORTHWHILE * depth * len(masks) else None


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
