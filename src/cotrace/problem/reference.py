"""Reference runs: many masks that differ little are evaluated from what they have in common.

Masks of one evaluation mostly agree, as the candidates of a greedy step do. What they agree on is run once; each mask
then starts at the lowest layer in which it differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.components import ComponentSpace

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
