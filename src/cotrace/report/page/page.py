"""The page: one self-contained HTML file, made with Jinja2 (every text escaped) and Vega-Lite, without any network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cotrace import __version__
from cotrace.errors import InputError
from cotrace.readout.explanation_files import diagram_svg
from cotrace.report.page import _run_summary as run_summary
from cotrace.report.page import charts
from cotrace.report.page._caveats import caveats
from cotrace.report.page._panels import Panel, Row, panels_of, rows_of, singles
from cotrace.report.page._size_effects import Effects, Stops, blocks_data, rounded, search_data, stops_of
from cotrace.report.page.first_screen import first_screen, parts_words, percent, plain_of_chosen
from cotrace.report.page.inputs import PART_WORDS, Material, figure_of, heading
from cotrace.report.page.members import member_cards, pattern_data
from cotrace.report.page.plain import sentences
from cotrace.results.effects import HardFigure
from cotrace.text.escape import visible, visible_in

LIMIT_BYTES = 6 * 2**20
LIBRARY = "window.vegaEmbed=vegaEmbed;window.vega=vega;"
MOST_SINGLES = 4096
MOST_ID = 120
"""Characters of an id that are shown."""
LEAD = 7
"""Sentences of the verdict that are not folded."""
STYLES = {"light": "light", "dark": "dark", "style": "report"}
COLUMNS = (
    ("component", "component", "text"),
    ("now", "in the set", "number"),
    ("first_k", "first at k", "number"),
    ("share", "stays", "number"),
    ("alone", "effect alone", "number"),
    ("leaves", "lost when it leaves", "number"),
    ("inclusion", "chosen again", "number"),
    ("interaction", "strongest interaction", "number"),
)
"""Key, heading and kind of the columns of the table of components."""


ALWAYS = ("component", "now", "first_k")
"""Columns that are there whatever was computed."""


def page_of(material: Material) -> bytes:
    """The report, without texts where it would be too large with them. Raises InputError where it still is."""
    material = material.shown()
    content = _rendered(material)
    if len(content) > LIMIT_BYTES and material.examples is not None:
        content = _rendered(replace(material, examples=None, redact=True))
    if len(content) > LIMIT_BYTES:
        raise InputError(
            f"the report would be {len(content) / 2**20:.1f} MiB, more than {LIMIT_BYTES // 2**20}: trace with a "
            "smaller --max-size, or fewer searches"
        )
    return content


def _rendered(material: Material) -> bytes:
    text = _environment().get_template("report.html.j2").render(_context(material))
    return text.encode("utf-8", "replace")  # half a surrogate pair is no text


def _context(material: Material) -> dict[str, Any]:
    stops = stops_of(material)
    effects, panels = Effects(material, stops[0]), panels_of(material.space)
    rows, missing = rows_of(material)
    specs = dict(_specs(material, panels, effects))
    return {
        "material": material,
        "first": material.first,
        "chosen": material.chosen,
        "judged": material.judged,
        "later": material.later,
        "version": __version__,
        "title": run_summary.title(material),
        "question": run_summary.question(material),
        "heading": heading(material.first),
        "words": sentences(material.language),
        "language": material.language,
        "screen": first_screen(material),
        "plain": plain_of_chosen(material),
        "parts": parts_words(material, sentences(material.language)),
        "headlines": list(run_summary.headlines(material)),
        "verdict": run_summary.verdict(material),
        "lead": LEAD,
        "caveats": [replace(one, text=run_summary.spaced(one.text)) for one in caveats(material)],
        "record": run_summary.record(material),
        "config": run_summary.config_text(material),
        "commands": run_summary.commands(material),
        "stops": stops,
        "intervals": any(one.interval is not None for one in material.first),
        "hard": any(material.first.hard(one) for one in material.first),
        "tested": any(one.p_value is not None for one in material.first),
        "timed": any(one.elapsed_s is not None for one in material.frontiers),
        "effects": effects,
        "panels": panels,
        "rows": rows,
        "columns": [column for column in COLUMNS if column[0] in ALWAYS or _is_known(rows, column[0])],
        "part_words": PART_WORDS,
        "legend": _legend(material),
        "thinned": list(_thinned(stops, effects, len(rows), missing)),
        "charts": specs,
        "data": json_block(_data(material, stops, effects, panels)),
        "specs": json_block({"config": charts.CONFIG, "charts": specs}),
        "policy": policy(),
        **_explained(material),
        "library": Markup(_script(library())),  # noqa: S704  # this package's own and Vega's code, no user's text
        "script": Markup(_script(_asset("report.js"))),  # noqa: S704
        **{name: Markup(_asset(f"{file}.css")) for name, file in STYLES.items()},  # noqa: S704
    }


def _explained(material: Material) -> dict[str, Any]:
    """Return the explanation of the set, where there is one."""
    found = material.explanation
    if found is None:
        return {"explained": None}
    tables = [
        found.feeds(),
        found.reads(),
        found.writes(),
        found.maps(),
        found.features(),
        found.positions(),
        found.positions(single=True),
        found.added(),
    ]
    return {
        "explained": found,
        "circuit": Markup(diagram_svg(found, linked=True)),  # noqa: S704  # every text in it is escaped
        "explained_tables": [one for one in tables if one.rows],
        "member_cards": member_cards(found),
        "patterns": pattern_data(found),
    }


def _data(material: Material, stops: Sequence[Stops], effects: Effects, panels: Sequence[Panel]) -> dict[str, Any]:
    space = material.space
    alone = singles(material)
    listed = sorted(alone, key=lambda place: -abs(alone[place]))[:MOST_SINGLES]
    return {
        "n": len(space),
        "sign": material.first.sign,
        "blocks": blocks_data(space),
        "alone": {str(place): rounded(alone[place]) for place in listed},
        "panels": [panel.data() for panel in panels],
        "searches": [search_data(one) for one in stops],
        "start": effects.judged_stop,
        "examples": effects.data() if effects.tables else None,
        "patterns": [] if material.explanation is None else pattern_data(material.explanation),
    }


def _specs(material: Material, panels: Sequence[Panel], effects: Effects) -> Iterator[tuple[str, charts.Spec]]:
    for part in material.parts:
        yield f"chart-frontier-{part}", charts.frontier(material, part)
    for panel in panels:
        yield panel.id, panel.spec()
    if effects.tables:
        yield "chart-histogram", charts.histogram(material)
    if (matrix := charts.interactions(material.judged)) is not None:
        yield "chart-interactions", matrix
    yield "chart-cost", charts.cost(material)
    if material.tradeoff is not None:
        for index in range(len(material.tradeoff.harms)):
            yield f"chart-tradeoff-{index}", charts.tradeoff(material.tradeoff, index)


def _hard(found: HardFigure | None) -> str:
    """The level before and after, and a word where the soft form goes the other way."""
    if found is None:
        return ""
    arrow = f"{found.before:.4g} \u2192 {found.after:.4g}"
    return f"{arrow} (the soft form goes the other way)" if found.disagrees else arrow


def _is_known(rows: Iterable[Row], key: str) -> bool:
    """Whether a column has anything in it."""
    return any(getattr(row, key) is not None for row in rows)


def _legend(material: Material) -> list[dict[str, Any]]:
    colours, shapes = charts.colours(material), charts.shapes(material)
    joined = {one.search: charts.is_joined(one) for one in material.frontiers}
    return [{"name": name, "colour": colours[name], "shape": shapes[name], "joined": joined[name]} for name in colours]


def _thinned(stops: Sequence[Stops], effects: Effects, rows: int, missing: int) -> Iterator[str]:
    """Return notes on what the page leaves out so that it stays small; the run's files hold all of it."""
    yield from (one.words for one in stops if one.words)
    if effects.words:
        yield effects.words
    if any(not one.whole for one in effects.shown):
        yield "prompts too long for the page are left out, their ids are not"
    if missing:
        yield f"{rows} components are in the table; {missing:,} more are in some set"


def json_block(data: Mapping[str, Any]) -> Markup:
    """JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(visible_in(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704


def policy() -> str:
    """The content security policy: no network at all, no script but the two of this page, by their hashes."""
    hashes = " ".join(_hash(_script(source)) for source in (library(), _asset("report.js")))
    rest = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {hashes}; {rest}"


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _script(source: str) -> str:
    """A script that its element holds whole."""
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one file, as the conversion library bundles them without a network."""
    import vl_convert

    return str(vl_convert.javascript_bundle(LIBRARY))


@cache
def _asset(name: str) -> str:
    return files("cotrace.report").joinpath("assets", name).read_text("utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("cotrace.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["figure"] = lambda value: "" if value is None else figure_of(value)
    made.filters["short"] = lambda text: text if len(text) <= MOST_ID else f"{text[:MOST_ID]}\u2026"
    made.filters["share"] = lambda value: "" if value is None else run_summary.spaced(f"{value:.0%}")
    made.filters["hard"] = _hard
    made.filters["spaced"] = run_summary.spaced
    made.filters["percent"] = percent
    made.filters["points"] = lambda value: f"{100 * value:+.1f}"
    made.filters["range"] = lambda value: "" if value is None else f"[{percent(value[0])}, {percent(value[1])}]"
    made.filters["spread"] = lambda value: "" if value is None else f"[{100 * value[0]:+.1f}, {100 * value[1]:+.1f}]"
    made.filters["between"] = lambda value: "" if value is None else "{:+.3g} to {:+.3g}".format(*value)
    return made
