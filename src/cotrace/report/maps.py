"""Where in the model a selection lies: a map of layers and units for each site."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cotrace.components import Component, Site
from cotrace.report.style import BLUE, FAINT, INK, MUTED, PAPER, is_narrow, styled, titled
from cotrace.report.words import figure_of, heading, level
from cotrace.results import Frontier, Selection

MOST_UNITS = 64
"""Sites with more units in a layer are shown as the number chosen in each layer."""
UNIT_WORD = {"pattern": "head", "head": "head", "neuron": "neuron", "coord": "coordinate"}
LEGEND = "blue: chosen; the number is the size k from which on the component is always in the best set"
SHADES = LinearSegmentedColormap.from_list("chosen", [BLUE, "#B9D9EE"])


def head_map(frontier: Frontier, k: int, *, width: float | None = None) -> Figure:
    """Layers x heads, one map per site: the selection of exactly k. Raises InputError where the search found none.

    The number in a cell is the smallest size from which on the component is in every selection up to k. ``width`` in
    inches, as wide as the cells need where None; maps stand below each other where it is narrow.
    """
    selection = frontier.at(k)
    entries = entry_sizes(frontier, k)
    sites = frontier.space.sites
    size = (_width(frontier), _height(frontier)) if width is None else _fitted(frontier, width)
    rows = len(sites) if width is not None and is_narrow(width) else 1
    with styled(size[0]):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, len(sites) // rows, squeeze=False).ravel()
        for axes, site in zip(panels, sites, strict=True):
            _panel(axes, frontier, site, entries, k)
        titled(figure, _title(frontier, selection), size[0])
        legend = "\n".join(wrap(LEGEND, int(size[0] * 17)))
        figure.supxlabel(legend, x=0.012, ha="left", fontsize=6.5 if is_narrow(size[0]) else 7.5, color=MUTED)
    return figure


def entry_sizes(frontier: Frontier, k: int) -> dict[Component, int]:
    """For each member of the selection of k: the smallest size from which on it is in every selection up to k."""
    entries: dict[Component, int] = {}
    staying = set(frontier.at(k).members)
    for selection in reversed([one for one in frontier if one.k <= k]):
        staying &= set(selection.members)
        entries |= dict.fromkeys(staying, selection.k)
    return entries


def _title(frontier: Frontier, selection: Selection) -> str:
    effects = f"effect {figure_of(selection.effect)} of {figure_of(frontier.full_effect)} ({level(frontier)})"
    if selection.effect_heldout is not None:
        effects += f"; held out {figure_of(selection.effect_heldout)} of {figure_of(frontier.full_effect_heldout)}"
    what = f"{frontier.search}: {selection.k} of {len(frontier.space)} components, {frontier.metric}"
    return f"{what}\n{heading(frontier)}\n{effects}"


def _panel(axes: Axes, frontier: Frontier, site: Site, entries: dict[Component, int], k: int) -> None:
    members = [component for component in frontier.space if component.site is site]
    layers = sorted({component.layer for component in members})
    units = sorted({component.unit or 0 for component in members})
    axes.set_title(site.value)
    axes.set_ylabel("layer")
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set_ylim(-0.5, len(layers) - 0.5)
    if len(units) > MOST_UNITS:
        _density(axes, [component for component in entries if component.site is site], layers)
    else:
        _grid(axes, members, layers, units, entries, k)


def _grid(
    axes: Axes, members: list[Component], layers: list[int], units: list[int], entries: dict[Component, int], k: int
) -> None:
    """A cell for each component: grey where not chosen, blank where there is none, darker the earlier it came."""
    present = np.full((len(layers), len(units)), np.nan)
    came = np.full((len(layers), len(units)), np.nan)
    for component in members:
        row, column = layers.index(component.layer), units.index(component.unit or 0)
        present[row, column] = 1
        if component in entries:
            came[row, column] = entries[component]
            _number(axes, column, row, entries[component], k, size=7.5 if len(units) <= 16 else 5)
    axes.imshow(
        present, cmap=LinearSegmentedColormap.from_list("present", [FAINT, FAINT]), aspect="equal", origin="lower"
    )
    axes.imshow(came, cmap=SHADES, vmin=1, vmax=max(k, 2), aspect="equal", origin="lower")
    _gaps(axes, came)
    axes.set_xlabel(UNIT_WORD.get(members[0].site.tag, ""))
    step = 1 if len(units) <= 16 else 4
    axes.set_xticks(
        range(0, len(units), step), [str(unit) if members[0].site.has_units else "" for unit in units[::step]]
    )


def _number(axes: Axes, column: int, row: int, came: int, k: int, size: float) -> None:
    ink = PAPER if came <= 0.6 * k else INK
    axes.text(column, row, str(came), ha="center", va="center", fontsize=size, color=ink)


def _gaps(axes: Axes, cells: Float[np.ndarray, "layer unit"]) -> None:
    """Thin lines of paper between the cells, no frame."""
    axes.set_xticks(np.arange(cells.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(cells.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=2)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _density(axes: Axes, chosen: list[Component], layers: list[int]) -> None:
    """How many are chosen in each layer, where a cell for each would be too small to see."""
    counts = [sum(component.layer == layer for component in chosen) for layer in layers]
    bars: Any = axes.barh(range(len(layers)), counts, color=BLUE)
    axes.bar_label(bars, fontsize=7.5, padding=2, color=MUTED)
    axes.set_xlabel("components chosen")


def _width(frontier: Frontier) -> float:
    columns = [max(1, _units(frontier, site)) for site in frontier.space.sites]
    return max(6.4, 1.2 + sum(3.0 if count > MOST_UNITS else 0.8 + 0.34 * count for count in columns))


def _height(frontier: Frontier) -> float:
    return max(2.6, 1.5 + 0.34 * len({component.layer for component in frontier.space}))


def _fitted(frontier: Frontier, width: float) -> tuple[float, float]:
    """Width and height where the width is given: cells shrink until the maps fit."""
    counts = [
        min(MOST_UNITS // 4, n) if (n := max(1, _units(frontier, site))) > MOST_UNITS else n
        for site in frontier.space.sites
    ]
    layers = len({component.layer for component in frontier.space})
    if is_narrow(width):
        cell = min(0.34, (width - 0.7) / max(counts))
        return width, 1.3 + len(counts) * (0.55 + max(cell, 0.1) * layers)
    cell = min(0.34, (width - 0.8 * len(counts)) / sum(counts))
    return width, 1.6 + max(cell, 0.1) * layers


def _units(frontier: Frontier, site: Site) -> int:
    return len({component.unit for component in frontier.space if component.site is site})
