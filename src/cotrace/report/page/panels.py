"""Panels of the map: one for each site and position role, as a grid of cells or as a count for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cotrace.components import Block, ComponentSpace
from cotrace.report.page.charts import Spec, density, grid

MOST_UNITS, MOST_CELLS = 64, 4096
"""What has more units in a layer, or more cells, is shown as the number chosen in each layer."""
UNIT_WORD = {"pattern": "head", "head": "head", "neuron": "neuron", "coord": "coordinate"}


@dataclass(frozen=True)
class Panel:
    """One panel."""

    id: str
    title: str
    kind: str
    """``grid`` or ``density``."""
    layers: tuple[int, ...]
    units: tuple[Any, ...]
    unit_word: str
    blocks: tuple[int, ...]
    """Places of its blocks among the space's."""

    @property
    def width(self) -> int:
        """The most pixels that it needs."""
        return 760 if self.kind == "density" or len(self.units) > 16 else 110 + 52 * max(3, len(self.units))

    def spec(self, cells: Sequence[Spec] | None = None) -> Spec:
        """Its chart; without its cells where they are to follow the page's slider."""
        about = f"{self.title}: components chosen, by layer" + (
            "" if self.kind == "density" else f" and {self.unit_word}"
        )
        if self.kind == "density":
            return density(list(self.layers), self.unit_word, about, cells)
        return grid(list(self.layers), list(self.units), self.unit_word, about, cells)

    def data(self) -> dict[str, Any]:
        """What the page's script needs of it."""
        return {"id": self.id, "kind": self.kind, "blocks": list(self.blocks), "title": self.title}


def panels_of(space: ComponentSpace) -> tuple[Panel, ...]:
    """The panels in the order of the space; sites that are whole layers share one, a column for each."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, block in enumerate(space.blocks):
        kind = block.site.value if block.site.has_units else "whole layers"
        groups.setdefault((kind, block.role), []).append(i)
    return tuple(
        _panel(f"chart-map-{i}", kind, role, [(j, space.blocks[j]) for j in places])
        for i, ((kind, role), places) in enumerate(groups.items())
    )


def _panel(name: str, kind: str, role: str, blocks: list[tuple[int, Block]]) -> Panel:
    layers = tuple(sorted({block.layer for _, block in blocks}))
    units: list[Any] = list(dict.fromkeys(block.site.tag for _, block in blocks))
    word = "site"
    if kind != "whole layers":
        units = sorted({unit for _, block in blocks for unit in block.units})
        word = UNIT_WORD.get(blocks[0][1].site.tag, "unit")
    large = len(units) > MOST_UNITS or len(units) * len(layers) > MOST_CELLS
    title = kind if role == "all" else f"{kind} at {role}"
    places = tuple(place for place, _ in blocks)
    return Panel(name, title, "density" if large else "grid", layers, tuple(units), word, places)
