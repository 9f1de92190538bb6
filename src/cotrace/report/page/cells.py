"""The map as Vega-Lite specifications, without its rows: those follow the slider."""

from __future__ import annotations

from typing import Any

import altair as alt

from cotrace.report.page.charts import Spec, bare, inks, spec_of


def grid(layers: list[int], units: list[Any], unit_word: str, description: str) -> Spec:
    """Layers x units: a cell for each component, stronger the earlier it came, numbered if there is room."""
    base = alt.Chart(alt.NamedData(name="cells")).encode(
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
    return spec_of(chart, height=_rows_height(len(layers)), description=description)


def density(layers: list[int], unit_word: str, description: str) -> Spec:
    """Components chosen in each layer, where a cell for each would be too small to see."""
    base = alt.Chart(alt.NamedData(name="cells")).encode(
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
    return spec_of(alt.layer(bars, words), height=_rows_height(len(layers)), description=description)


def _rows_height(rows: int) -> int:
    return round(min(760, max(60, rows * (30 if rows <= 16 else 16))))
