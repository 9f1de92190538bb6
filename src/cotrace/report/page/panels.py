"""Panels of the map: one for each site and position role, as a grid of cells or as a count for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from cotrace.components import Block, ComponentSpace
from cotrace.report.page.charts import CUTS, DIVERGING, Spec, bare, inks, rows_height, spec_of

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


def grid(
    layers: list[int], units: list[Any], unit_word: str, description: str, rows: Sequence[Spec] | None = None
) -> Spec:
    """Layers x units: a cell for each component, stronger the earlier it came, numbered if there is room."""
    base = alt.Chart(_cells(rows)).encode(
        x=alt.X("unit:O", title=unit_word, scale=alt.Scale(domain=units), axis=bare(len(units) > 1)),
        y=alt.Y("layer:O", title="layer", scale=alt.Scale(domain=layers[::-1]), axis=bare()),
    )
    shade = alt.Color(
        "shade:O", legend=None, scale=alt.Scale(domain=list(range(5)), range=[f"var(--in{i})" for i in range(5)])
    )
    tips = [alt.Tooltip(f"{name}:N") for name in ("component", "state", "alone")]
    cells = base.mark_rect(stroke="var(--paper)", strokeWidth=1.5 if len(units) <= 32 else 0.5, cornerRadius=2)
    chart: alt.LayerChart = alt.layer(cells.encode(color=shade, tooltip=tips)).resolve_scale(color="independent")
    if len(units) <= 16:
        numbers = base.mark_text(fontSize=11).encode(text="came:N", color=inks())
        chart = alt.layer(cells.encode(color=shade, tooltip=tips), numbers).resolve_scale(color="independent")
    return spec_of(chart, height=rows_height(len(layers)), description=description)


def effects(panel: Panel, rows: Sequence[Spec], bound: float, *, legend: bool = True) -> Spec:
    """Layers x units: a cell for each component, blue above 0 and orange below, with its effect if there is room.

    ``bound``: the largest size of an effect. Where a cell for each is too small to see: the largest in each layer.
    """
    dense = panel.kind == "density"
    x = alt.X("unit:O", title=panel.unit_word, scale=alt.Scale(domain=list(panel.units)), axis=bare())
    if dense:
        x = alt.X("size:Q", title=f"size of the largest effect of a {panel.unit_word}")
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=x, y=alt.Y("layer:O", title="layer", scale=alt.Scale(domain=list(panel.layers)[::-1]), axis=bare())
    )
    scale = alt.Scale(type="threshold", domain=[cut * bound for cut in CUTS], range=list(DIVERGING))
    colour = alt.Color("effect:Q", scale=scale, legend=alt.Legend(format="+.2g") if legend else None)
    if dense:
        marks = [base.mark_bar(stroke="var(--line)", strokeWidth=0.5).encode(color=colour)]
        marks.append(base.mark_text(align="left", dx=4, fontSize=11, color="var(--muted)").encode(text="words:N"))
    else:
        cells = base.mark_rect(stroke="var(--paper)", strokeWidth=1.5 if len(panel.units) <= 32 else 0.5)
        numbers = [base.mark_text(fontSize=9).encode(text="words:N", color=inks())] if len(panel.units) <= 16 else []
        marks = [cells.encode(color=colour), *numbers]
    chart = alt.layer(*marks).resolve_scale(color="independent")
    about = f"{panel.title}: the effect of each component by itself, by layer and {panel.unit_word}"
    return spec_of(chart, height=rows_height(len(panel.layers)), description=about)


def density(layers: list[int], unit_word: str, description: str, rows: Sequence[Spec] | None = None) -> Spec:
    """Components chosen in each layer, where a cell for each would be too small to see."""
    base = alt.Chart(_cells(rows)).encode(
        x=alt.X("count:Q", title=f"{unit_word}s chosen", axis=alt.Axis(tickMinStep=1, format=",d")),
        y=alt.Y("layer:O", title="layer", scale=alt.Scale(domain=layers[::-1]), axis=bare()),
    )
    tips = [
        alt.Tooltip("layer:O"),
        alt.Tooltip("count:Q", title="chosen"),
        alt.Tooltip("share:N", title="of the layer"),
    ]
    bars = base.mark_bar(color="var(--in3)", cornerRadiusEnd=2).encode(tooltip=tips)
    words = base.mark_text(align="left", dx=4, fontSize=11, color="var(--muted)").encode(text="words:N")
    return spec_of(alt.layer(bars, words), height=rows_height(len(layers)), description=description)


def _cells(rows: Sequence[Spec] | None) -> Any:
    """The rows of a map, or the name under which the page's script gives them."""
    return alt.NamedData(name="cells") if rows is None else alt.InlineData(values=list(rows))
