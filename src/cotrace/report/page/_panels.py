"""Panels of heads and layers, and the rows of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float, Int, UInt8

from cotrace.components import Block, Component, ComponentSpace
from cotrace.report.page.charts import Spec, bare, count_axis, diverging, drawn, inks, rows_height, spec_of, tips
from cotrace.report.page.inputs import ReportInputs
from cotrace.statistics import Interval

MOST_UNITS, MOST_CELLS = 64, 4096
"""Limits of a map's units and cells; above them the number chosen in each layer is shown."""
UNIT_WORD = {"pattern": "head", "head": "head", "neuron": "neuron", "coord": "coordinate", "feature": "feature"}


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

    def members(self, space: ComponentSpace) -> list[Component]:
        """The components of its blocks."""
        blocks = [space.blocks[i] for i in self.blocks]
        return [space[i] for block in blocks for i in range(block.start, block.stop)]

    def spec(self, cells: Sequence[Spec] | None = None) -> Spec:
        """Its chart; without its cells where they are to follow the page's slider."""
        about = f"{self.title}: components chosen, by layer" + (
            "" if self.kind == "density" else f" and {self.unit_word}"
        )
        if self.kind == "density":
            return density(list(self.layers), self.unit_word, about, cells)
        return grid(list(self.layers), list(self.units), self.unit_word, about, cells)

    def data(self) -> dict[str, Any]:
        """Data for the page's script."""
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
        word = UNIT_WORD.get(blocks[0][1].site.tag.rpartition(".")[2], "unit")
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
    rect = base.mark_rect(stroke="var(--paper)", strokeWidth=1.5 if len(units) <= 32 else 0.5, cornerRadius=2)
    cells = rect.encode(color=shade, tooltip=tips("component:N", "state:N", "alone:N"))
    numbers = [base.mark_text(fontSize=11).encode(text="came:N", color=inks())] if len(units) <= 16 else []
    chart = alt.layer(cells, *numbers).resolve_scale(color="independent")
    return spec_of(chart, height=rows_height(len(layers)), description=description)


def effects(panel: Panel, rows: Sequence[Spec], bound: float, *, legend: bool = True) -> Spec:
    """Layers x units: a cell for each component, blue above 0 and orange below, with its effect if there is room.

    ``bound``: the largest size of an effect. Where a cell for each is too small to see: the largest in each layer.
    """
    dense = panel.kind == "density"
    x = alt.X("unit:O", title=panel.unit_word, scale=alt.Scale(domain=list(panel.units)), axis=bare())
    if dense:
        x = alt.X("size:Q", title=f"size of the largest effect of a {panel.unit_word}")
    base = drawn(rows).encode(
        x=x, y=alt.Y("layer:O", title="layer", scale=alt.Scale(domain=list(panel.layers)[::-1]), axis=bare())
    )
    colour = alt.Color("effect:Q", scale=diverging(bound), legend=alt.Legend(format="+.2g") if legend else None)
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
        x=alt.X("count:Q", title=f"{unit_word}s chosen", axis=count_axis()),
        y=alt.Y("layer:O", title="layer", scale=alt.Scale(domain=layers[::-1]), axis=bare()),
    )
    shown = tips("layer:O", "count:Q chosen", "share:N of the layer")
    bars = base.mark_bar(color="var(--in3)", cornerRadiusEnd=2).encode(tooltip=shown)
    words = base.mark_text(align="left", dx=4, fontSize=11, color="var(--muted)").encode(text="words:N")
    return spec_of(alt.layer(bars, words), height=rows_height(len(layers)), description=description)


def _cells(rows: Sequence[Spec] | None) -> Any:
    """The rows of a map, or the name under which the page's script gives them."""
    return alt.NamedData(name="cells") if rows is None else alt.InlineData(values=list(rows))


MOST_ROWS = 250
MOST_ALONE = 50
LATE = 1 << 40
ONES = np.array([value.bit_count() for value in range(256)], np.int64)
"""Bits that are set in each byte."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One component. What was not computed is None."""

    index: int
    """Its place in the mask."""
    name: str
    site: str
    layer: int
    first_k: int | None = None
    """Smallest size whose best set holds it."""
    share: float | None = None
    """Share of the sizes from then on whose best set holds it."""
    alone: float | None = None
    leaves: float | None = None
    leaves_interval: Interval | None = None
    leaves_on: str = ""
    """The pairs on which its leaving was measured."""
    status: str = ""
    inclusion: float | None = None
    shapley: float | None = None
    partner: str = ""
    """The member with which it interacts most."""
    interaction: float | None = None


@dataclass(frozen=True)
class Presence:
    """How the sizes of the first search hold each component of the space."""

    first: Int[np.ndarray, "n"]
    """Smallest size whose best set holds it; 0 where none does."""
    share: Float[np.ndarray, "n"]
    """Share of the sizes from then on whose best set holds it."""

    @classmethod
    def of(cls, inputs: ReportInputs) -> Presence:
        """One look at every set."""
        n, sizes = len(inputs.space), np.array(inputs.first.sizes)
        first, count = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for selection in inputs.first:
            places = inputs.places(selection)
            first[places[first[places] == 0]] = selection.k
            count[places] += 1
        later = len(sizes) - np.searchsorted(sizes, first)
        return cls(first, count / np.maximum(later, 1))


def rows_of(inputs: ReportInputs) -> tuple[tuple[Row, ...], int]:
    """The components of the sets found, and those that do most alone; and how many of some set are left out."""
    presence, alone = Presence.of(inputs), singles(inputs)
    members = set(inputs.places(inputs.chosen).tolist())
    most = sorted(alone, key=lambda place: -abs(alone[place]))[:MOST_ALONE]
    found = {*np.flatnonzero(presence.first).tolist(), *most}
    ranked = sorted(found, key=lambda i: (i not in members, presence.first[i] or LATE, -abs(alone.get(i, 0.0)), i))
    kept = ranked[:MOST_ROWS]
    leaving = _leaving(inputs)
    rows = tuple(_row(inputs, place, presence, alone.get(place), leaving) for place in kept)
    return rows, int((presence.first > 0).sum()) - sum(row.first_k is not None for row in rows)


def singles(inputs: ReportInputs) -> dict[int, float]:
    """Place -> effect alone, on the pairs searched, of the components that some search evaluated alone."""
    found: dict[int, float] = {}
    place_of = np.argsort(inputs.order)
    for frontier in inputs.frontiers:
        table = inputs.table(frontier, "training")
        if table is None:
            continue
        lone = np.flatnonzero(_counts(table.keys) == 1)
        places = np.unpackbits(table.keys[lone], axis=1, count=table.n).argmax(axis=1)
        weights = inputs.weights("training", table.effects.shape[1])
        effects = np.average(table.effects[lone].astype(np.float64), axis=1, weights=weights)
        found = dict(zip(place_of[places].tolist(), effects.tolist(), strict=True)) | found
    return found


def _counts(keys: UInt8[np.ndarray, "set byte"]) -> Int[np.ndarray, "set"]:
    """How many components each packed set holds."""
    return np.asarray(ONES[keys].sum(axis=1))


def _leaving(inputs: ReportInputs) -> dict[str, dict[str, Any]]:
    """Return name -> loss when it leaves the chosen set: as judged, or from sets that a search evaluated."""
    judged = inputs.judged
    if judged is None or judged.minimality is None:
        return {name: {"leaves": loss, "leaves_on": "training"} for name, loss in _known_leaving(inputs)}
    return {
        one.component: {
            "leaves": one.loss,
            "leaves_interval": one.interval,
            "leaves_on": judged.judged_on,
            "status": one.status,
        }
        for one in judged.minimality.members
    }


def _known_leaving(inputs: ReportInputs) -> Iterator[tuple[str, float]]:
    places = inputs.places(inputs.chosen)
    effect = inputs.mean_effect(places)
    if effect is None or len(places) > MOST_ROWS:
        return
    for i, place in enumerate(places.tolist()):
        rest = np.delete(places, i)
        without = inputs.mean_effect(rest) if len(rest) or inputs.first.mode == "keep" else 0.0
        if without is not None:
            yield str(inputs.space[place]), inputs.first.sign * (effect - without)


def _row(
    inputs: ReportInputs, place: int, presence: Presence, alone: float | None, leaving: Mapping[str, dict[str, Any]]
) -> Row:
    one: Component = inputs.space[place]
    name, first = str(one), int(presence.first[place])
    partner, interaction = _strongest(inputs, name)
    return Row(
        index=place,
        name=name,
        site=one.site.value,
        layer=one.layer,
        first_k=first or None,
        share=float(presence.share[place]) if first else None,
        alone=alone,
        inclusion=_inclusion(inputs, name),
        shapley=_shapley(inputs, name),
        partner=partner,
        interaction=interaction,
        **leaving.get(name, {}),
    )


def _inclusion(inputs: ReportInputs, name: str) -> float | None:
    judged = inputs.judged
    return None if judged is None or not judged.stability else judged.stability[0].inclusion.get(name, 0.0)


def _shapley(inputs: ReportInputs, name: str) -> float | None:
    judged = inputs.judged
    if judged is None or judged.interactions is None or judged.interactions.shapley is None:
        return None
    return judged.interactions.shapley.values.get(name)


def _strongest(inputs: ReportInputs, name: str) -> tuple[str, float | None]:
    judged = inputs.judged
    pairs = judged.interactions.pairs if judged is not None and judged.interactions is not None else ()
    own = [pair for pair in pairs if name in pair.components]
    if not own:
        return "", None
    top = max(own, key=lambda pair: abs(pair.within))
    return next(other for other in top.components if other != name), top.within
