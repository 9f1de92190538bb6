"""Figures of results as Altair charts, and as png, svg or pdf: the page's own charts in its light colours."""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert
from altair.utils.schemapi import debug_mode

from cotrace.components import Component, ComponentSpace
from cotrace.errors import InputError, unknown
from cotrace.report.page import charts
from cotrace.report.page._panels import Panel, panels_of
from cotrace.report.page._panels import effects as effects_panel
from cotrace.report.page.charts import Spec
from cotrace.report.page.inputs import PART_WORDS, ReportInputs, figure_of, heading, level, wrapped
from cotrace.results import Frontier, Tradeoff
from cotrace.text.escape import visible_in
from cotrace.validation import checked

if TYPE_CHECKING:
    import pandas as pd

    from cotrace.evaluation import Evaluation

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: one column of a paper, and both."""
NARROW = 5.0
"""Panels stand below each other in what is narrower."""
POINTS = 72
"""Points of an inch: Vega's pixels are points."""
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
LEGEND = "blue: chosen; the number is the size k from which on the component is always in the best set"
FORMS = ("pdf", "png", "svg")
LEFT_OUT = ("tooltip", "$schema", "datasets")
"""Keys of a panel that a figure does not take over where they stand."""
RESOURCES = re.compile(rb"(?: +/[A-Za-z]+\d+ \d+ 0 R\n){2,}")
"""Lines of a PDF that name what a page uses, one under the other in any order."""
SHADES = 4
"""Steps of blue; the strongest came first."""


class Figure(alt.VConcatChart):
    """A figure: an Altair chart that a notebook shows as an image, without a network."""

    def _repr_mimebundle_(self, *given: Any, **named: Any) -> dict[str, str]:
        return {"image/png": b64encode(to_png(self, 110)).decode(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<Figure: {' '.join(self.to_dict(validate=False)['title']['text'])}>"


@checked("ct.report.frontier")
def frontier(frontiers: Frontier | Sequence[Frontier], *, width: float | None = None) -> Figure:
    """Effect against k for one or several searches of one problem, on the pairs searched and on those held out.

    ``width`` in inches; panels stand below each other where it is narrow. Raises InputError where the frontiers answer
    different questions.
    """
    if width is not None and not width > 0:
        raise InputError(f"ct.report.frontier: width is {width}; give inches above 0")
    inputs = _inputs(frontiers)
    inches = width or (8.6 if inputs.heldout else 5.6)
    panels = [_frontier_panel(inputs, part, inches) for part in reversed(inputs.parts)]
    return _figure(panels, "The most that k components do", [heading(inputs.first)], inches)


def compare(frontiers: Frontier | Sequence[Frontier], *, width: float = PAGE) -> Figure:
    """The frontiers on held-out pairs, and their best effect against what the search had cost when it found the set.

    Raises InputError where the frontiers answer different questions.

    Args:
        frontiers: Frontiers of the same question.
        width: Width in inches.
    """
    inputs = _inputs(frontiers)
    panels = [_frontier_panel(inputs, inputs.parts[0], width)]
    panels.append({**charts.progress(inputs), "title": "when it was found, pairs searched"})
    return _figure(panels, "What each search reaches, and for what cost", [heading(inputs.first)], width)


def head_map(frontier: Frontier, k: int, *, width: float | None = None) -> Figure:
    """Layers x units, one map for each site: the selection of exactly k. Raises InputError where none was found.

    The number in a cell is the smallest size from which on the component is in every selection up to k. ``width`` in
    inches, as wide as the cells need where None; maps stand below each other where it is narrow.

    Args:
        frontier: The frontier.
    """
    selection, entries = frontier.at(k), entry_sizes(frontier, k)
    effects = f"effect {figure_of(selection.effect)} of {figure_of(frontier.full_effect)} ({level(frontier)})"
    if selection.effect_heldout is not None:
        effects += f"; held out {figure_of(selection.effect_heldout)} of {figure_of(frontier.full_effect_heldout)}"
    title = f"{frontier.search}: {selection.k} of {len(frontier.space)} components, {frontier.metric}"
    found = panels_of(frontier.space)
    panels = [one.spec(_cells(one, frontier, entries, k)) for one in found]
    return _map(found, panels, title, [heading(frontier), effects, LEGEND], width, least=6.4, dense=12)


@checked("ct.report.effect_map")
def effect_map(table: pd.DataFrame, *, width: float | None = None) -> Figure:
    """Layers x units, one map for each site and role: the table that ``problem.single_effects`` gives.

    Blue is an effect above 0, orange one below; where a layer has too many units to see, its largest. ``width`` in
    inches, as wide as the cells need where None. Raises InputError for another table.
    """
    lacking = [name for name in ("component", "effect") if name not in table.columns]
    if lacking or not len(table):
        raise InputError(
            f"ct.report.effect_map: the table has no {lacking[0] if lacking else 'rows'}; give what "
            "problem.single_effects() gives"
        )
    effects = dict(zip(map(Component.parse, table["component"]), table["effect"].tolist(), strict=True))
    space = ComponentSpace(tuple(effects))
    bound = max(map(abs, effects.values())) or 1.0
    found = panels_of(space)
    specs = [effects_panel(one, _alone(one, space, effects, bound), bound, legend=one is found[0]) for one in found]
    about, largest = table.attrs, max(effects, key=lambda one: abs(effects[one]))
    way = "exact" if about.get("exact", True) else "to first order, by gradient"
    lines = [f"{about.get('task', '')}, mode {about.get('mode', '')}, {way}"] if about else []
    lines.append(f"largest: {largest} {figure_of(effects[largest])}; blue above 0, orange below")
    title = f"{len(space)} components, each by itself: {about.get('metric', 'effect')}"
    return _map(found, specs, title, lines, width, least=5.6, dense=24)


def _map(
    found: Sequence[Panel],
    specs: Sequence[Spec],
    title: str,
    lines: Sequence[str],
    width: float | None,
    *,
    least: float,
    dense: int,
) -> Figure:
    """Maps beside each other, each as wide as its units need, or as ``dense`` of them; ``least`` inches together."""
    inches = max(least, sum(one.width for one in found) / POINTS) if width is None else width
    titled = [{**spec, "title": one.title} for one, spec in zip(found, specs, strict=True)]
    shares = [min(len(one.units), 24) if one.kind == "grid" else dense for one in found]
    return _figure(titled, title, lines, inches, shares=shares)


def _alone(panel: Panel, space: ComponentSpace, effects: Mapping[Component, float], bound: float) -> list[Spec]:
    """The rows of a panel: each component, or of each layer the one whose effect is largest."""
    members = panel.members(space)
    if panel.kind != "density":
        return [_effect_cell(one, effects[one], bound) for one in members]
    of_layer = ([one for one in members if one.layer == layer] for layer in panel.layers)
    best = [max(some, key=lambda one: abs(effects[one])) for some in of_layer]
    return [_effect_cell(one, effects[one], bound) | {"words": f"{one}: {effects[one]:+.2g}"} for one in best]


def _effect_cell(component: Component, effect: float, bound: float) -> Spec:
    """Its number has as many decimals as the largest needs for three digits."""
    words = f"{effect:+.{max(0, 3 - math.ceil(math.log10(bound)))}f}"
    dark = int(abs(effect) > charts.CUTS[-1] * bound)
    return _place(component) | {"effect": effect, "size": abs(effect), "words": words, "dark": dark}


def _place(component: Component) -> Spec:
    return {"unit": component.unit if component.site.has_units else component.site.tag, "layer": component.layer}


def entry_sizes(frontier: Frontier, k: int) -> dict[Component, int]:
    """For each member of the selection of k: the smallest size from which on it is in every selection up to k."""
    entries: dict[Component, int] = {}
    staying = set(frontier.at(k).members)
    for selection in reversed([one for one in frontier if one.k <= k]):
        staying &= set(selection.members)
        entries |= dict.fromkeys(staying, selection.k)
    return entries


def _cells(panel: Panel, frontier: Frontier, entries: Mapping[Component, int], k: int) -> list[Spec]:
    """The rows of a panel of the map: a cell for each component, or a count for each layer."""
    members = panel.members(frontier.space)
    if panel.kind == "density":
        counts = Counter(one.layer for one in members if one in entries)
        return [{"layer": layer, "count": counts[layer], "words": str(counts[layer])} for layer in panel.layers]
    return [_cell(one, entries.get(one), k) for one in members]


def _cell(component: Component, came: int | None, k: int) -> Spec:
    shade = 0 if came is None else max(1, round(SHADES * (1 - (came - 1) / k)))
    return _place(component) | {"shade": shade, "dark": int(shade > 2), "came": "" if came is None else str(came)}


def layers(frontier: Frontier, k: int, *, width: float = PAGE) -> Figure:
    """Components chosen in each layer, sites stacked. Raises InputError where the search found no set of exactly k.

    Args:
        frontier: The frontier.
        width: Width in inches.
    """
    title = f"Where the set of k = {k} lies ({frontier.search})"
    return _figure([charts.layers(frontier, k)], title, [heading(frontier)], width)


def interactions(evaluation: Evaluation | None, *, width: float = PAGE) -> Figure:
    """Members x members; blue does more together, orange less. Raises InputError where they were not measured.

    Args:
        evaluation: An evaluation of level ``standard`` or above.
        width: Width in inches.
    """
    spec = charts.interactions(evaluation, legend=True)
    if evaluation is None or spec is None:
        raise InputError(
            "interactions were not measured: judge the run with cotrace evaluate RUN --level standard, at a k of at "
            "least 2"
        )
    where = f"{evaluation.task}, mode {evaluation.mode}, {evaluation.units}, {evaluation.judged_on}"
    what = f"change of {evaluation.metric}, together beyond apart"
    return _figure([spec], f"Interactions within the set of k = {evaluation.k}", [where, what], min(width, PAGE))


def tradeoff(found: Tradeoff) -> Figure:
    """Strength against harm on held-out pairs, one panel for each side effect, the Pareto set joined and labelled.

    Raises InputError where no side effect was measured.

    Args:
        found: Edits, from ``ct.editing.tradeoff``.
    """
    if not found.harms:
        raise InputError("this trade-off has no side effect to draw: measure one, such as the loss on a neutral text")
    panels = [charts.tradeoff(found, index, labels=True) for index in range(len(found.harms))]
    lines = [
        f"{found.task}, {len(found)} edits, held-out pairs",
        "joined: the Pareto set, labelled by k and donor; ring: the edit chosen",
    ]
    return _figure(panels, "What an edit does and what it costs", lines, max(6.0, 4.4 * len(panels)))


KINDS: Mapping[str, Callable[[ReportInputs, int, float], Figure]] = {
    "frontier": lambda inputs, k, width: frontier(inputs.frontiers, width=width),
    "map": lambda inputs, k, width: head_map(inputs.first, k, width=width),
    "layers": lambda inputs, k, width: layers(inputs.first, k, width=width),
    "interactions": lambda inputs, k, width: interactions(inputs.judged, width=width),
    "compare": lambda inputs, k, width: compare(inputs.frontiers, width=width),
}
WIDTHS: Mapping[str, float] = {"column": COLUMN, "page": PAGE}


OF_ONE_SIZE = ("map", "layers")
"""Kinds of figure that show the set of one size, whichever is asked for."""


def draw(inputs: ReportInputs, kind: str, *, k: int | None = None, width: str = "page") -> Figure:
    """The figure of that name; ``k`` defaults to the size that was judged. Raises InputError, UnknownName.

    Args:
        inputs: The results of a run.
        kind: ``frontier``, ``map``, ``layers``, ``interactions`` or ``compare``.
        width: ``column`` (3.3 inches) or ``page`` (7).
    """
    if kind not in KINDS:
        raise unknown("kind of figure", kind, KINDS)
    if width not in WIDTHS:
        raise unknown("width", width, WIDTHS)
    if k is not None and kind not in OF_ONE_SIZE:
        raise InputError(f"k is the size of the set that {' and '.join(OF_ONE_SIZE)} show: leave it out for {kind}")
    return KINDS[kind](inputs, inputs.chosen.k if k is None else k, WIDTHS[width])


def drawn(inputs: ReportInputs, kind: str, form: str, *, k: int | None = None, width: str = "page") -> bytes:
    """The same as the bytes of a file: png, svg or pdf. Raises InputError, UnknownName.

    Args:
        inputs: The results of a run.
        kind: Name of the figure, as in ``draw``.
        form: ``png``, ``svg`` or ``pdf``.
        k: Size that is drawn; None for the one that was judged.
        width: ``column`` or ``page``.
    """
    return to_bytes(draw(inputs, kind, k=k, width=width), form)


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as PNG.

    Args:
        figure: A figure of this room.
        dpi: Dots per inch.
    """
    return to_bytes(figure, "png", dpi)


def to_bytes(figure: Figure, form: str, dpi: int = 300) -> bytes:
    """The figure as png, as svg with its words as text and a title that is read out, or as pdf with its fonts.

    The same figure gives the same bytes. Raises UnknownName for another format.

    Args:
        figure: A figure of this room.
        form: ``png``, ``svg`` or ``pdf``.
        dpi: Dots per inch of a png.
    """
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    spec = visible_in(figure.to_dict(validate=False))
    if form == "png":
        return bytes(vl_convert.vegalite_to_png(spec, ppi=dpi))
    if form == "pdf":
        spec["config"]["title"]["fontWeight"] = "normal"  # of two faces now one comes first in the file, now the other
        return RESOURCES.sub(_in_order, vl_convert.vegalite_to_pdf(spec))
    title = f"<title>{escape(' '.join(spec['title']['text']))}</title>"
    svg: str = re.sub(r"(<svg[^>]*>)", lambda start: start[1] + title, vl_convert.vegalite_to_svg(spec), count=1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}'.encode()


def _in_order(lines: re.Match[bytes]) -> bytes:
    """The same lines, sorted: the same figure gives the same bytes."""
    return b"".join(sorted(lines[0].splitlines(keepends=True)))


def _inputs(frontiers: Frontier | Sequence[Frontier]) -> ReportInputs:
    """Frontiers of one question. Raises InputError where there is none, or they answer different questions."""
    shown = [frontiers] if isinstance(frontiers, Frontier) else list(frontiers)
    if not shown:
        raise InputError("a figure needs at least one frontier")
    if len({(one.mode, one.direction, one.metric, one.task, one.space.components) for one in shown}) > 1:
        raise InputError("these frontiers answer different questions: draw those of one task, metric, mode and space")
    return ReportInputs(tuple(shown))


def _frontier_panel(inputs: ReportInputs, part: str, inches: float) -> Spec:
    return {**charts.frontier(inputs, part, legend=1 if inches < NARROW else 3), "title": PART_WORDS[part]}


def _figure(
    panels: Sequence[Spec], title: str, lines: Sequence[str], inches: float, shares: Sequence[float] = ()
) -> Figure:
    """Panels beside or below each other under one title, exactly so wide; those of one quantity on one scale."""
    narrow = inches < NARROW
    size = 7 if narrow else 9
    height = 130 if narrow else 190
    for panel in panels:
        panel["height"] = min(panel["height"], height) if len(panels) > 1 and not shares else panel["height"]
        if "title" in panel:
            panel["title"] = {"text": panel["title"], "fontSize": size, "offset": 4}
    shared = {} if shares or len(panels) == 1 else {"resolve": {"scale": {"y": "shared"}}}
    spec = {
        "title": {
            "text": wrapped(title, inches, size + 2),
            "subtitle": [part for line in lines for part in wrapped(line, inches, size)],
        },
        "spacing": 14,
        "vconcat": [
            {"hconcat": list(row), "spacing": 20, **shared} for row in _rows(panels, 1 if narrow else len(panels))
        ],
        "config": {**charts.CONFIG, **_sizes(size)},
        **shared,
    }
    data = {name: rows for panel in panels for name, rows in panel.get("datasets", {}).items()}
    made = _fitted({**_plain(spec), "datasets": data}, inches * POINTS, shares)
    with debug_mode(False):  # all of it was checked when the panels were made
        return Figure.from_dict(made, validate=False)


def _rows(panels: Sequence[Spec], columns: int) -> Iterator[Sequence[Spec]]:
    yield from (panels[start : start + columns] for start in range(0, len(panels), columns))


def _sizes(size: int) -> Spec:
    """Return the differences from the page: fonts that every machine draws alike, at the sizes of a paper, on white."""
    axis = {**charts.CONFIG["axis"], "labelFontSize": size, "titleFontSize": size, "titlePadding": 5}
    title = {"anchor": "start", "fontSize": size + 2, "subtitleFontSize": size, "color": "var(--ink)", "offset": 8}
    legend = {"labelFontSize": size, "titleFontSize": size, "labelColor": "var(--ink)", "labelLimit": 0}
    return {
        "background": "#ffffff",
        "font": FONT,
        "padding": 6,
        "axis": axis,
        "title": {**title, "subtitleColor": "var(--ink)", "subtitlePadding": 4},
        "legend": {
            **legend,
            "orient": "bottom",
            "title": None,
            "rowPadding": 3,
            "symbolSize": 60,
            "gradientLength": 150,
            "offset": 8,
        },
    }


def _fitted(spec: Spec, points: float, shares: Sequence[float]) -> Spec:
    """The panels as wide as the whole allows: what axes and titles take is measured first."""
    rows = [row["hconcat"] for row in spec["vconcat"]]
    weights = [[shares[i] if len(rows) == 1 and shares else 1 for i in range(len(row))] for row in rows]
    rooms = [points * 0.9] * len(rows)
    for last in (False, True):
        for row, own, room in zip(rows, weights, rooms, strict=True):
            for panel, weight in zip(row, own, strict=True):
                panel["width"] = max(20.0, room * weight / sum(own))
        if not last:
            rooms = [
                room + points - _wide({**spec, "vconcat": [one]})
                for room, one in zip(rooms, spec["vconcat"], strict=True)
            ]
    return spec


def _wide(spec: Spec) -> float:
    """How many points a specification is wide when drawn."""
    found = re.search(r'width="([\d.]+)"', vl_convert.vegalite_to_svg(spec))
    assert found is not None, "an svg has a width"
    return float(found[1])


def _plain(spec: Any) -> Any:
    """The specification in the light colours, without what only the page's script fills."""
    if isinstance(spec, Mapping):
        kept = {name: _plain(value) for name, value in spec.items() if name not in LEFT_OUT}
        if "layer" in kept:
            kept["layer"] = [one for one in kept["layer"] if one.get("data") != {"name": "cursor"}]
        return kept
    if isinstance(spec, list | tuple):
        return [_plain(one) for one in spec]
    return re.sub(r"var\(--([\w-]+)\)", lambda name: _colours()[name[1]], spec) if isinstance(spec, str) else spec


@cache
def _colours() -> dict[str, str]:
    """The page's light colours by name."""
    text = files("cotrace.report").joinpath("assets", "light.css").read_text("utf-8")
    return dict(re.findall(r"--([\w-]+):\s*(#\w+)", text))
