"""The page: one self-contained HTML file, made with Jinja2 (every text escaped) and Vega-Lite, without any network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from cotrace.report.page.inputs import PART_WORDS, ReportInputs, figure_of, heading
from cotrace.report.page.members import member_cards, pattern_data
from cotrace.report.page.plain import sentences
from cotrace.results.effects import HardFigure
from cotrace.statistics import Interval, interval_text
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


def page_of(inputs: ReportInputs) -> bytes:
    """The report, without texts where it would be too large with them. Raises InputError where it still is."""
    inputs = inputs.shown()
    content = _rendered(inputs)
    if len(content) > LIMIT_BYTES and inputs.examples is not None:
        content = _rendered(replace(inputs, examples=None, redact=True))
    if len(content) > LIMIT_BYTES:
        raise InputError(
            f"the report would be {len(content) / 2**20:.1f} MiB, more than {LIMIT_BYTES // 2**20}: trace with a "
            "smaller --max-size, or fewer searches"
        )
    return content


def _rendered(inputs: ReportInputs) -> bytes:
    text = _environment().get_template("report.html.j2").render(_context(inputs))
    return text.encode("utf-8", "replace")  # half a surrogate pair is no text


def _context(inputs: ReportInputs) -> dict[str, Any]:
    stops = stops_of(inputs)
    effects, panels = Effects(inputs, stops[0]), panels_of(inputs.space)
    rows, missing = rows_of(inputs)
    specs = dict(_specs(inputs, panels, effects))
    return {
        "inputs": inputs,
        "first": inputs.first,
        "chosen": inputs.chosen,
        "judged": inputs.judged,
        "later": inputs.later,
        "version": __version__,
        "title": run_summary.title(inputs),
        "question": run_summary.question(inputs),
        "heading": heading(inputs.first),
        "words": sentences(inputs.language),
        "language": inputs.language,
        "screen": first_screen(inputs),
        "plain": plain_of_chosen(inputs),
        "parts": parts_words(inputs, sentences(inputs.language)),
        "headlines": list(run_summary.headlines(inputs)),
        "verdict": run_summary.verdict(inputs),
        "lead": LEAD,
        "caveats": [replace(one, text=run_summary.spaced(one.text)) for one in caveats(inputs)],
        "record": run_summary.record(inputs),
        "config": run_summary.config_text(inputs),
        "commands": run_summary.commands(inputs),
        "stops": stops,
        "intervals": any(one.interval is not None for one in inputs.first),
        "hard": any(inputs.first.hard(one) for one in inputs.first),
        "tested": any(one.p_value is not None for one in inputs.first),
        "timed": any(one.elapsed_s is not None for one in inputs.frontiers),
        "effects": effects,
        "panels": panels,
        "rows": rows,
        "columns": [column for column in COLUMNS if column[0] in ALWAYS or _is_known(rows, column[0])],
        "part_words": PART_WORDS,
        "legend": _legend(inputs),
        "thinned": list(_thinned(stops, effects, len(rows), missing)),
        "charts": specs,
        "data": json_block(_data(inputs, stops, effects, panels)),
        "specs": json_block({"config": charts.CONFIG, "charts": specs}),
        "policy": policy(),
        **_explained(inputs),
        "library": Markup(_script(library())),  # noqa: S704  # this package's own and Vega's code, no user's text
        "script": Markup(_script(_asset("report.js"))),  # noqa: S704
        **{name: Markup(_asset(f"{file}.css")) for name, file in STYLES.items()},  # noqa: S704
    }


def _explained(inputs: ReportInputs) -> dict[str, Any]:
    """Return the explanation of the set, where there is one."""
    found = inputs.explanation
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


def _data(inputs: ReportInputs, stops: Sequence[Stops], effects: Effects, panels: Sequence[Panel]) -> dict[str, Any]:
    space = inputs.space
    alone = singles(inputs)
    listed = sorted(alone, key=lambda place: -abs(alone[place]))[:MOST_SINGLES]
    return {
        "n": len(space),
        "sign": inputs.first.sign,
        "blocks": blocks_data(space),
        "alone": {str(place): rounded(alone[place]) for place in listed},
        "panels": [panel.data() for panel in panels],
        "searches": [search_data(one) for one in stops],
        "start": effects.judged_stop,
        "examples": effects.data() if effects.tables else None,
        "patterns": [] if inputs.explanation is None else pattern_data(inputs.explanation),
    }


def _specs(inputs: ReportInputs, panels: Sequence[Panel], effects: Effects) -> Iterator[tuple[str, charts.Spec]]:
    for part in inputs.parts:
        yield f"chart-frontier-{part}", charts.frontier(inputs, part)
    for panel in panels:
        yield panel.id, panel.spec()
    if effects.tables:
        yield "chart-histogram", charts.histogram(inputs)
    if (matrix := charts.interactions(inputs.judged)) is not None:
        yield "chart-interactions", matrix
    yield "chart-cost", charts.cost(inputs)
    if inputs.tradeoff is not None:
        for index in range(len(inputs.tradeoff.harms)):
            yield f"chart-tradeoff-{index}", charts.tradeoff(inputs.tradeoff, index)


def _hard(found: HardFigure | None) -> str:
    """The level before and after, and a word where the soft form goes the other way."""
    if found is None:
        return ""
    arrow = f"{found.before:.4g} \u2192 {found.after:.4g}"
    return f"{arrow} (the soft form goes the other way)" if found.disagrees else arrow


def points(share: float) -> str:
    """A change of a share in percentage points."""
    return f"{100 * share:+.1f}"


def _bracketed(interval: Interval | None, form: Callable[[float], str]) -> str:
    return "" if interval is None else f"[{interval_text(interval, form, ', ')}]"


def _is_known(rows: Iterable[Row], key: str) -> bool:
    """Whether a column has anything in it."""
    return any(getattr(row, key) is not None for row in rows)


def _legend(inputs: ReportInputs) -> list[dict[str, Any]]:
    colours, shapes = charts.colours(inputs), charts.shapes(inputs)
    joined = {one.search: charts.is_joined(one) for one in inputs.frontiers}
    return [{"name": name, "colour": colours[name], "shape": shapes[name], "joined": joined[name]} for name in colours]


def _thinned(stops: Sequence[Stops], effects: Effects, rows: int, missing: int) -> Iterator[str]:
    """Return notes on what the page leaves out so that it stays small; the run's files hold all of it."""
    yield from (one.words for one in stops if one.words)
    if effects.words:
        yield effects.words
    if any(not one.complete for one in effects.shown):
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
    made.filters["points"] = points
    made.filters["range"] = lambda value: _bracketed(value, percent)
    made.filters["spread"] = lambda value: _bracketed(value, points)
    made.filters["between"] = lambda value: interval_text(value, between=" to ")
    return made
