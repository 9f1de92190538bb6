"""All charts as Vega-Lite specifications. Colours are CSS variables: themes and print need no redraw.

Figures (``report.figures``) put the colours in, and legends.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from cotrace.report.page._size_effects import MOST_POINTS, rounded, spread
from cotrace.report.page.inputs import PART_WORDS, ReportInputs, level, quantity
from cotrace.results import Frontier, Tradeoff
from cotrace.statistics import interval_text

if TYPE_CHECKING:
    from cotrace.evaluation import Evaluation

Spec = dict[str, Any]

SHAPES = {"pursuit": "circle", "pgbct": "diamond", "greedy": "square", "topk": "triangle-up", "random": "cross"}
OTHER_SHAPES = ("triangle-down", "triangle-right", "stroke")
NAMED = ("pursuit", "pgbct", "greedy", "topk", "random")
DIVERGING = tuple(f"var(--d{step})" for step in range(7))
"""Seven steps from orange (below 0) over the paper to blue (above)."""
CUTS = (-0.6, -0.3, -0.05, 0.05, 0.3, 0.6)
"""Upper ends of the steps of the diverging colours, as shares of the largest value."""
LOG_FROM = 100
"""Largest size from which on sizes are on a logarithmic axis."""

SPACED = "replace(datum.label, '%', '\u00a0%')"

CONFIG: Spec = {
    "background": None,
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "padding": 2,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line-strong)",
        "tickColor": "var(--line-strong)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelOverlap": True,
        "titlePadding": 8,
    },
    "text": {"fill": "var(--ink)"},
}


def colours(inputs: ReportInputs) -> dict[str, str]:
    """Search -> its colour as a CSS variable; those without one of their own take the others in turn."""
    names = [frontier.search for frontier in inputs.frontiers]
    others = iter(f"var(--other{i % 3})" for i in range(len(names)))
    return {name: f"var(--{name})" if name in NAMED else next(others) for name in names}


def shapes(inputs: ReportInputs) -> dict[str, str]:
    """Search -> the shape of its points."""
    names = [frontier.search for frontier in inputs.frontiers]
    others = iter(OTHER_SHAPES[i % 3] for i in range(len(names)))
    return {name: SHAPES[name] if name in SHAPES else next(others) for name in names}


def frontier(inputs: ReportInputs, part: str, *, legend: int = 0) -> Spec:
    """The frontier on one part of the data: a line for each search, the first one's interval, the model level.

    ``legend``: columns of a legend of the searches with their costs; 0 for none, as the page has its own.
    """
    rows = [row for frontier in inputs.frontiers for row in _points(frontier, part)]
    x = alt.X("k:Q", title=f"components chosen, k (of {len(inputs.first.space):,})", axis=alt.Axis(grid=False))
    if max((row["k"] for row in rows), default=1) > LOG_FROM:
        x = x.scale(type="log", nice=False)
    else:
        x = x.axis(count_axis(grid=False)).scale(zero=False, nice=False, padding=10)
    y = alt.Y("effect:Q", title=quantity(inputs.first))
    shown = _legend(inputs, legend) if legend else None
    colour = alt.Color("search:N", scale=scale_of(colours(inputs)), legend=shown)
    shape = alt.Shape("search:N", scale=scale_of(shapes(inputs)), legend=shown)
    base = drawn(rows).encode(x=x, y=y, color=colour)
    layers = [
        *_levels(inputs, part, legend=bool(legend)),
        *_band([row for row in rows if row["search"] == inputs.first.search and "low" in row], x, colour, inputs),
        *_lines(base, shape, rows),
        *_controls(inputs, part),
        alt.Chart(alt.NamedData(name="cursor"))
        .mark_rule(color="var(--ink)", strokeWidth=1, strokeDash=[2, 3])
        .encode(x="k:Q"),
    ]
    description = f"Effect against the number of components, {PART_WORDS[part]}"
    return spec_of(alt.layer(*layers), height=300, description=description)


def _legend(inputs: ReportInputs, columns: int) -> alt.Legend:
    """Each search with what it cost."""
    words = {one.search: f"{one.search} ({one.forward_equivalents:,.0f} forward-eq.)" for one in inputs.frontiers}
    return alt.Legend(columns=columns, labelExpr=f"{json.dumps(words)}[datum.label]")


def progress(inputs: ReportInputs) -> Spec:
    """Best effect on the pairs searched by the cost at which it was found; a dot where the search ended."""
    rows = [
        {"search": one.search, "cost": rounded(cost), "effect": rounded(effect), "end": i == len(points) - 1}
        for one in inputs.frontiers
        for points in [[*found_at(one), (one.forward_equivalents, one.best().effect or 0.0)]]
        for i, (cost, effect) in enumerate(points)
        if cost > 0
    ]
    base = drawn(rows).encode(
        x=alt.X("cost:Q", title="forward-equivalents", scale=alt.Scale(type="log"), axis=alt.Axis(grid=False)),
        y=alt.Y("effect:Q", title=quantity(inputs.first)),
        color=alt.Color("search:N", scale=scale_of(colours(inputs)), legend=None),
    )
    steps = base.mark_line(interpolate="step-after", strokeWidth=1.6)
    ends = base.transform_filter("datum.end").mark_point(filled=True, size=40, opacity=1)
    layers = [*_levels(inputs, "training", legend=True), steps, ends]
    return spec_of(alt.layer(*layers), height=300, description="Best effect by the cost at which it was found")


def found_at(frontier: Frontier) -> Iterator[tuple[float, float]]:
    """(cost, best effect until then) over the frontier's sets, where the search noted when it found them."""
    known = [(one.forward_equivalents, one.effect) for one in frontier if one.effect is not None]
    best: float | None = None
    for cost, effect in sorted((cost, effect) for cost, effect in known if cost):
        if best is None or frontier.sign * effect > frontier.sign * best:
            best = effect
            yield cost, effect


def layers(frontier: Frontier, k: int) -> Spec:
    """Components chosen in each layer, sites stacked. Raises InputError where the search found no set of exactly k."""
    chosen = Counter((member.site, member.layer) for member in frontier.at(k).members)
    places, sites = sorted({component.layer for component in frontier.space}), frontier.space.sites
    rows = [
        {"layer": layer, "site": site.value, "count": chosen[site, layer], "order": i}
        for i, site in enumerate(sites)
        for layer in places
    ]
    range_ = [f"var(--{name})" for name in (*NAMED[:4], "other0", "other1")]
    scale = alt.Scale(domain=[site.value for site in sites], range=range_)
    legend = alt.Legend(columns=2) if len(sites) > 1 else None
    bars = drawn(rows).mark_bar(height={"band": 0.75})
    chart = bars.encode(
        x=alt.X("count:Q", title="components chosen", axis=count_axis()),
        y=alt.Y("layer:O", title="layer", scale=alt.Scale(domain=places[::-1]), axis=bare()),
        color=alt.Color("site:N", scale=scale, legend=legend),
        order="order:Q",
    )
    return spec_of(chart, height=rows_height(len(places)), description="Components chosen in each layer")


def _lines(base: alt.Chart, shape: alt.Shape, rows: list[Spec]) -> Iterator[alt.Chart]:
    """Lines with their points; points that no line leads to are rings around what they may lie on: both are seen."""
    if any(row["joined"] for row in rows):
        joined = base.transform_filter("datum.joined")
        yield joined.mark_line(strokeWidth=1.8)
        yield joined.mark_point(filled=True, opacity=1, size=34).encode(shape=shape, tooltip=_TIPS)
    if not all(row["joined"] for row in rows):
        apart = base.transform_filter("!datum.joined")
        yield apart.mark_point(filled=False, opacity=1, size=150, strokeWidth=2).encode(shape=shape, tooltip=_TIPS)


def _band(rows: list[Spec], x: alt.X, colour: alt.Color, inputs: ReportInputs) -> Iterator[alt.Chart]:
    """The intervals of one search."""
    if rows:
        area = drawn(rows).mark_area(opacity=0.16)
        yield area.encode(x=x, color=colour, y=alt.Y("low:Q", title=quantity(inputs.first)), y2="high:Q")


def is_joined(frontier: Frontier) -> bool:
    """Whether a line leads through the points: where there is one for every size, from the first to the last."""
    return frontier.sizes == list(range(frontier.sizes[0], frontier.sizes[-1] + 1))


def _points(frontier: Frontier, part: str) -> Iterator[Spec]:
    joined = is_joined(frontier)
    kept = [frontier.selections[i] for i in spread(len(frontier), MOST_POINTS)]
    for one in kept:
        value = one.effect if part == "training" else one.effect_heldout
        if value is None or one.k < 1 or not math.isfinite(value):
            continue
        row: Spec = {"search": frontier.search, "k": one.k, "effect": rounded(value), "joined": joined}
        row |= {"interval": "not computed", "p": "not computed"}
        if part == "heldout" and one.interval is not None:
            low, high = one.interval
            row |= {"low": rounded(low), "high": rounded(high), "interval": interval_text(one.interval, between=" to ")}
        if one.p_value is not None:
            row["p"] = f"{one.p_value:.3g}"
        yield row


def _levels(inputs: ReportInputs, part: str, *, legend: bool = False) -> Iterator[alt.Chart]:
    """Zero, and the model level with its name: at the line, or in a legend."""
    zero = drawn([{"y": 0}])
    yield zero.mark_rule(color="var(--line-strong)").encode(y="y:Q")
    first = inputs.first
    value = first.full_effect if part == "training" else first.full_effect_heldout
    if value is None or not math.isfinite(value):
        return
    line = alt.Chart(alt.InlineData(values=[{"y": rounded(value), "words": level(first)}]))
    if legend:
        dash = alt.StrokeDash(
            "words:N",
            scale=alt.Scale(domain=[level(first)], range=[[5, 3]]),
            legend=alt.Legend(symbolType="stroke", symbolSize=300, symbolStrokeColor="var(--ink)"),
        )
        yield line.mark_rule(color="var(--ink)").encode(y="y:Q", strokeDash=dash)
        return
    yield line.mark_rule(color="var(--ink)", strokeDash=[6, 4]).encode(y="y:Q")
    yield from _named(line, inputs, up=value >= 0)


def _named(line: alt.Chart, inputs: ReportInputs, *, up: bool) -> Iterator[alt.Chart]:
    """The name of the level, with paper behind it, at the end of its line where the chosen size is not marked."""
    sizes = inputs.first.sizes
    left = inputs.chosen.k > (sizes[0] + sizes[-1]) / 2
    place: dict[str, Any] = {"align": "left" if left else "right", "dx": 6 if left else 0, "fontSize": 11}
    place |= {"dy": -5 if up else 5}
    place["baseline"] = "bottom" if up else "top"
    where: dict[str, Any] = {"y": "y:Q", "x": alt.value(0 if left else "width"), "text": "words:N"}
    yield line.mark_text(stroke="var(--paper)", strokeWidth=5, **place).encode(**where)
    yield line.mark_text(**place).encode(**where)


def _controls(inputs: ReportInputs, part: str) -> Iterator[alt.Chart]:
    """The mean of the random sets of the same size and composition."""
    judged = inputs.judged
    sizes = () if judged is None or part == "training" else judged.sizes
    rows = [{"k": s.k, "y": rounded(s.control_mean), "what": "random sets, mean"} for s in sizes if s.control_mean]
    if rows:
        marks = drawn(rows).mark_point(shape="stroke", color="var(--muted)", size=160)
        yield marks.encode(x="k:Q", y="y:Q", tooltip=tips("what:N control", "k:Q", "y:Q effect"))


def histogram(inputs: ReportInputs) -> Spec:
    """How many pairs are moved how far."""
    bars = alt.Chart(alt.NamedData(name="bars")).mark_bar(color="var(--in3)", binSpacing=1)
    chart = bars.encode(
        x=alt.X("low:Q", title=quantity(inputs.first), bin="binned", axis=alt.Axis(grid=False)),
        x2="high:Q",
        y=alt.Y("count:Q", title="pairs", axis=count_axis(tickCount=4)),
        tooltip=tips("low:Q from", "high:Q to", "count:Q pairs"),
    )
    return spec_of(chart, height=150, description="How many pairs are moved how far at this size")


def interactions(judged: Evaluation | None, *, legend: bool = False) -> Spec | None:
    """Members x members: the joint effect of two beyond their separate ones, at the selection."""
    if judged is None or judged.interactions is None or not judged.interactions.pairs:
        return None
    pairs = judged.interactions.pairs
    names = list(dict.fromkeys(name for pair in pairs for name in pair.components))
    names = [name for name in judged.components if name in names] or names
    bound = max(abs(pair.within) for pair in pairs) or 1.0
    rows = [
        {
            "a": a,
            "b": b,
            "value": rounded(pair.within),
            "words": f"{pair.within:+.2g}",
            "kind": pair.kind,
            "dark": int(abs(pair.within) > CUTS[-1] * bound),
        }
        for pair in pairs
        for a, b in (pair.components, pair.components[::-1])
    ]
    base = drawn(rows).encode(
        x=alt.X(
            "a:O", title=None, scale=alt.Scale(domain=names), axis=alt.Axis(domain=False, ticks=False, labelAngle=-40)
        ),
        y=alt.Y("b:O", title=None, scale=alt.Scale(domain=names), axis=bare()),
    )
    shown = alt.Legend(format="+.2g") if legend else None
    cells = base.mark_rect(stroke="var(--paper)", strokeWidth=1.5).encode(
        color=alt.Color("value:Q", scale=diverging(bound), legend=shown),
        tooltip=tips("a:N", "b:N and", "value:Q together beyond apart", "kind:N by its interval"),
    )
    layers: list[alt.Chart] = [cells]
    if len(names) <= 9:
        layers.append(base.mark_text(fontSize=11).encode(text="words:N", color=inks()))
    return spec_of(
        alt.layer(*layers).resolve_scale(color="independent"),
        height=max(120, 34 * len(names)),
        description="Interactions of pairs of members",
    )


def cost(inputs: ReportInputs) -> Spec:
    """Forward-equivalents of each search."""
    rows = [{"search": one.search, "cost": rounded(one.forward_equivalents)} for one in inputs.frontiers]
    base = drawn(rows).encode(
        x=alt.X("cost:Q", title="forward-equivalents", axis=count_axis(tickCount=6)),
        y=alt.Y("search:N", title=None, sort=None, axis=alt.Axis(domain=False, ticks=False)),
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        color=alt.Color("search:N", scale=scale_of(colours(inputs)), legend=None)
    )
    words = base.mark_text(align="left", dx=4, fontSize=12).encode(text=alt.Text("cost:Q", format=",.0f"))
    return spec_of(alt.layer(bars, words), height=max(60, 34 * len(rows)), description="What each search cost")


def tradeoff(found: Tradeoff, index: int, *, labels: bool = False) -> Spec:
    """Strength against one harm, each edit a point, the Pareto set joined, the chosen edit ringed."""
    rows = [
        {
            "k": one.k,
            "donor": one.donor,
            "harm": rounded(one.harms[index]),
            "strength": rounded(one.strength_heldout),
            "kind": "chosen" if one is found.best else "Pareto set" if one.pareto else "beaten",
        }
        for one in found.points
    ]
    base = drawn(rows).encode(
        x=alt.X(
            "harm:Q",
            title=f"harm: {found.harms[index].partition(':')[0]}",
            axis=alt.Axis(format="+%", labelExpr=SPACED, grid=False),
        ),
        y=alt.Y("strength:Q", title=f"strength: move of {found.metric} ({found.aim})"),
        tooltip=tips("k:Q", "donor:N", "strength:Q", "harm:Q", "kind:N"),
    )
    front = base.transform_filter("datum.kind !== 'beaten'")
    layers = [
        base.transform_filter("datum.kind === 'beaten'").mark_point(color="var(--muted)", size=24),
        front.mark_line(color="var(--pursuit)", strokeWidth=1.2).encode(order="harm:Q"),
        front.mark_point(filled=True, color="var(--pursuit)", size=46, opacity=1),
        base.transform_filter("datum.kind === 'chosen'").mark_point(color="var(--pgbct)", size=260, strokeWidth=2),
    ]
    if labels:
        words = front.transform_calculate(words="datum.k + ', ' + datum.donor")
        layers.append(
            words.mark_text(align="left", dx=5, dy=9, fontSize=7, color="var(--muted)").encode(text="words:N")
        )
    return spec_of(alt.layer(*layers), height=280, description=f"Strength of edits against {found.harms[index]}")


def drawn(rows: Sequence[Spec]) -> alt.Chart:
    """A chart of these rows."""
    return alt.Chart(alt.InlineData(values=list(rows)))


def tips(*fields: str) -> list[alt.Tooltip]:
    """Fields with their types, as people read them: each with a title behind it, or its own name."""
    parts = [field.partition(" ") for field in fields]
    return [alt.Tooltip(field, title=title) if title else alt.Tooltip(field) for field, _, title in parts]


_TIPS = tips("search:N search", "k:Q k", "effect:Q effect", "interval:N 95 % interval", "p:N p, adjusted")


def scale_of(ranges: Mapping[str, str]) -> alt.Scale:
    """Name -> its colour or shape."""
    return alt.Scale(domain=list(ranges), range=list(ranges.values()))


def diverging(bound: float) -> alt.Scale:
    """Orange below 0, blue above, in seven steps; ``bound`` is the largest size."""
    return alt.Scale(type="threshold", domain=[cut * bound for cut in CUTS], range=list(DIVERGING))


def spec_of(chart: Any, *, height: int, description: str) -> Spec:
    """The specification at the width of its place in the page."""
    made: Spec = chart.properties(width="container", height=height, description=description).to_dict()
    made.pop("config", None)
    return made


def inks() -> alt.Color:
    """The ink of a number on a light or a strong cell."""
    scale = alt.Scale(domain=[0, 1], range=["var(--in-ink)", "var(--in-ink-dark)"])
    return alt.Color("dark:O", legend=None, scale=scale)


def bare(labels: bool = True) -> alt.Axis:
    """An axis of labels alone."""
    return alt.Axis(domain=False, ticks=False, labels=labels, labelAngle=0)


def count_axis(**more: Any) -> alt.Axis:
    """An axis of counts, with ticks at whole numbers alone. Vega's tickMinStep still lets halves through."""
    between = {"condition": {"test": "datum.value % 1 !== 0", "value": 0}, "value": 1}
    label = "datum.value % 1 === 0 ? datum.label : ''"
    return alt.Axis(tickMinStep=1, format=",d", labelExpr=label, tickOpacity=between, gridOpacity=between, **more)


def rows_height(rows: int) -> int:
    """Pixels of so many rows of cells or bars."""
    return round(min(760, max(60, rows * (30 if rows <= 16 else 16))))
