"""An explanation as a diagram, and as files for other tools: JSON, a graph for networkx, Gephi and yEd, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotrace.components import Component
from cotrace.errors import InputError
from cotrace.readout.card import Card, Explained, main_look
from cotrace.readout.records import NEGLIGIBLE, NO_INTERVAL
from cotrace.results.selection import MEMBER_COLUMNS
from cotrace.statistics import Interval, covers
from cotrace.text.escape import json_bytes, visible
from cotrace.text.files import new_file

if TYPE_CHECKING:
    import networkx
    import pandas as pd

SCHEMA = 1
NAMES = ("explanation.json", "explanation.graphml", "explanation-members.csv", "explanation-arrows.csv")


def explanation_json(found: Explained) -> bytes:
    """An explanation as JSON, its words first."""
    data = {"schema": SCHEMA, "words": list(found.words), **found.to_dict()}
    return json_bytes(data)


def graph(found: Explained) -> networkx.MultiDiGraph:
    """The set as a graph: a node for each member and one for the answer, an edge for each arrow and direct effect."""
    import networkx

    made = networkx.MultiDiGraph(model=found.model, task=found.task, metric=found.metric, pairs=found.pairs)
    made.graph["together"] = found.paths.together
    for card in found.cards:
        made.add_node(card.component, **_known(_member(card)))
    made.add_node(ANSWER, component=ANSWER)
    for arrow in found.paths.arrows:
        row = {
            "effect": arrow.effect,
            **_interval(arrow.interval),
            "share": arrow.share,
            "kind": arrow.kind or "plain",
            "given": arrow.given,
            "evidence": arrow.evidence or "none",
        }
        for part, effect in arrow.parts.items():  # networkx keeps the name "key" for itself
            ends = _interval(arrow.part_intervals.get(part))
            row |= {f"by_{part}": effect, **{f"by_{part}_{name}": end for name, end in ends.items()}}
        made.add_edge(arrow.source, arrow.target, **_known(row))
    for card in found.cards:
        if card.direct is not None:
            row = {"effect": card.direct, **_interval(card.direct_interval), "kind": "direct"}
            row["evidence"] = (
                "none" if covers(card.direct_interval) else "interval" if card.direct_interval else "size alone"
            )
            made.add_edge(card.component, ANSWER, **_known(row))
    return made


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that GraphML can hold: an empty value is left out."""
    return {n: visible(v) if isinstance(v, str) else v for n, v in row.items() if v is not None}


def _interval(interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"ci_low": low, "ci_high": high}


def graphml(found: Explained) -> bytes:
    """The graph as GraphML."""
    import networkx

    return ("\n".join(networkx.generate_graphml(graph(found))) + "\n").encode()


def _member(card: Card) -> dict[str, Any]:
    one = Component.parse(card.component)
    look, named = card.read.look() if card.read.attends else next(iter(card.read.looks), None), card.read.behaviour
    acting, first = next(iter(card.roles), None), next(iter(card.ov.moved if card.ov else ()), None)
    return {
        **dict(zip(MEMBER_COLUMNS, (card.component, one.site.value, one.layer, one.unit, one.role), strict=True)),
        "effect": card.alone.effect,
        **_interval(card.alone.interval),
        "direct": card.direct,
        "writes": card.written.base,
        "writes_swapped": card.written.donor,
        "behaviour": None if named is None else named.name,
        "behaviour_score": None if named is None else named.random,
        "reads_from": None if look is None else look.query,
        "reads": None if look is None or not look.key else look.key,
        "reads_weight": None if look is None else look.base,
        "acts_at": None if acting is None else acting.where,
        "copies": None if card.ov is None else card.ov.copies,
        "map_given": None if first is None else first.token or "output row",
        "map_raises": None if first is None else " ".join(first.raises) or None,
        "map_lowers": None if first is None else " ".join(first.lowers) or None,
        "raises": " ".join(token for token, _ in card.written.promoted) or None,
        "lowers": " ".join(token for token, _ in card.written.suppressed) or None,
        "partner": card.alone.partner,
        "with_partner": card.alone.with_partner,
        "inhibits": card.alone.inhibits,
        "known": ", ".join(card.known) or None,
        "words": card.words,
    }


def members_frame(found: Explained) -> pd.DataFrame:
    """One row for each member."""
    import pandas as pd

    frame = pd.DataFrame([_member(card) for card in found.cards])
    return frame.astype({"unit": "Int64"})


def arrows_frame(found: Explained) -> pd.DataFrame:
    """One row for each arrow, and each direct effect to ``answer``."""
    import pandas as pd

    rows = [data | {"source": a, "target": b} for a, b, data in graph(found).edges(data=True)]
    parts = [f"by_{part}{end}" for part in ("query", "key", "value") for end in ("", "_ci_low", "_ci_high")]
    columns = ("source", "target", "effect", "ci_low", "ci_high", "share", *parts, "kind", "given", "evidence")
    return pd.DataFrame(rows).reindex(columns=list(columns))


def contents(found: Explained) -> dict[str, bytes]:
    """Name -> content of every file."""
    tables = (members_frame(found), arrows_frame(found))
    csv = [
        table.map(lambda cell: visible(cell) if isinstance(cell, str) else cell).to_csv(index=False).encode()
        for table in tables
    ]
    return dict(zip(NAMES, (explanation_json(found), graphml(found), *csv), strict=True))


def export(found: Explained, folder: str | Path) -> tuple[Path, ...]:
    """Write them. Raises InputError, OutputExists."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}: {error.strerror or error}; name another folder") from None
    paths = [new_file(Path(folder) / name, "folder") for name in NAMES]
    for path, content in zip(paths, contents(found).values(), strict=True):
        try:
            path.write_bytes(content)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}; name another folder") from None
    return tuple(paths)


WIDTH, HEIGHT, GAP, RISE, MARGIN = 136, 72, 18, 74, 12
"""Pixels: a node, the space between two of a row and between two rows, and around everything."""
WIDEST = 11.0
ANSWER = "answer"
Point = tuple[float, float]
LETTERS = 21
"""Signs that fit in a node's line."""


@dataclass(frozen=True)
class _Line:
    """An arrow to draw."""

    source: str
    target: str
    effect: float
    kind: str
    words: str
    tested: bool
    """Whether its interval is known; the others are drawn faint."""


def anchor(component: str) -> str:
    """Where the card of a member stands in a page."""
    return "card-" + re.sub(r"\W", "-", component)


def diagram_svg(found: Explained, *, linked: bool = False) -> str:
    """The diagram; ``linked``: nodes lead to the members' cards in the same page."""
    rows = _rows(found)
    widest = max(len(row) for row in rows)
    width = 2 * (MARGIN + GAP) + widest * WIDTH + (widest - 1) * GAP
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * RISE
    at = dict(_placed(rows, width, height))
    lines = list(_lines(found))
    largest = max((abs(line.effect) for line in lines), default=1.0) or 1.0
    lanes = [_lanes([at[name] for name in row]) for row in rows]
    body = [_arrow(line, at, lanes, largest, i) for i, line in enumerate(lines)]
    body += [_node(found, name, *at[name], linked=linked) for row in rows for name in row]
    about = f"{found.k} members by layer, arrows as wide as the effect: {'; '.join(line.words for line in lines)}"
    return (
        f'<svg class="circuit" xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="{"group" if linked else "img"}" aria-label="{_text(about)}" '
        f'font-family="inherit" font-size="12" fill="currentColor">{_ENDS}{"".join(body)}</svg>'
    )


_ENDS = (
    '<defs><marker id="circuit-to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto" '
    'markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="context-stroke"/></marker>'
    '<marker id="circuit-bar" viewBox="0 0 8 14" refX="4" refY="7" markerWidth="8" markerHeight="14" orient="auto" '
    'markerUnits="userSpaceOnUse"><path d="M2 0H5V14H2z" fill="context-stroke"/></marker></defs>'
)


def _rows(found: Explained) -> list[list[str]]:
    """Names by layer, the last layer first, below the answer."""
    layers: dict[int, list[str]] = {}
    for name in found.components:
        layers.setdefault(Component.parse(name).layer, []).append(name)
    return [[ANSWER], *(layers[layer] for layer in sorted(layers, reverse=True))]


def _placed(rows: Sequence[Sequence[str]], width: float, height: float) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each node's upper left corner; rows are set in the middle."""
    for i, row in enumerate(rows):
        wide = len(row) * WIDTH + (len(row) - 1) * GAP
        for j, name in enumerate(row):
            yield name, ((width - wide) / 2 + j * (WIDTH + GAP), MARGIN + i * (HEIGHT + RISE))


def _lines(found: Explained) -> Iterator[_Line]:
    """The arrows that are more than next to nothing, the widest first so that the others lie on top."""
    shown = [arrow for arrow in found.arrows if arrow.given is None or arrow.kind == "redundant"]
    lines = [
        _Line(a.source, a.target, a.effect, a.kind, _said(a.source, a.target, a.effect, a.mark), bool(a.interval))
        for a in shown
    ]
    least = NEGLIGIBLE * max((abs(card.alone.effect) for card in found.cards), default=0.0)
    for card in found.cards:
        if card.direct is not None and abs(card.direct) > least and not covers(card.direct_interval):
            mark = "" if card.direct_interval else NO_INTERVAL
            said = _said(card.component, ANSWER, card.direct, mark)
            lines.append(_Line(card.component, ANSWER, card.direct, "", said, bool(card.direct_interval)))
    yield from sorted(lines, key=lambda line: -abs(line.effect))


def _said(source: str, target: str, effect: float, mark: str) -> str:
    return f"{source} to {target} {effect:+.2g}{f', {mark}' if mark else ''}"


def _lanes(row: Sequence[Point]) -> tuple[float, list[float]]:
    """A row's upper edge, and where arrows pass it: between its nodes and beside them."""
    own = [x for x, _ in row]
    return row[0][1], [own[0] - GAP / 2, *(x - GAP / 2 for x in own[1:]), own[-1] + WIDTH + GAP / 2]


def _route(start: Point, end: Point, passed: Sequence[tuple[float, list[float]]], i: int) -> str:
    """A curve that passes each row in the lane nearest to the straight line, never behind a node."""
    points = [start]
    for top, lanes in passed:
        straight = start[0] + (end[0] - start[0]) * (start[1] - top - HEIGHT / 2) / (start[1] - end[1])
        side = 1 if i % 2 else -1
        x = min(lanes, key=lambda lane: (round(abs(lane - straight)), side * lane)) + (i % 3 - 1) * 4
        points += [(x, top + HEIGHT + 4), (x, top - 4)]
    path = f"M{start[0]:.0f} {start[1]:.0f}"
    for (x0, y0), (x1, y1) in pairwise([*points, end]):
        middle = (y0 + y1) / 2
        path += f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    return path


def _arrow(
    line: _Line, at: Mapping[str, Point], lanes: Sequence[tuple[float, list[float]]], largest: float, i: int
) -> str:
    """A curve from the middle of the source's upper edge to that of the target's lower one."""
    (x0, y0), (x1, y1) = at[line.source], at[line.target]
    start, end = (x0 + WIDTH / 2, y0), (x1 + WIDTH / 2, y1 + HEIGHT + 2)
    if y0 == y1:  # of one layer: from attention to the MLP, side by side
        start, end = (
            (x0 + (WIDTH if x1 > x0 else 0), y0 + HEIGHT / 2),
            (x1 + (0 if x1 > x0 else WIDTH), y1 + HEIGHT / 2),
        )
        path = f"M{start[0]:.0f} {start[1]:.0f}L{end[0]:.0f} {end[1]:.0f}"
    else:
        path = _route(start, end, [lane for lane in reversed(lanes) if y1 < lane[0] < y0], i)
    wide = max(1.0, WIDEST * abs(line.effect) / largest)
    dashes = {"inhibiting": ' stroke-dasharray="2 3"', "redundant": ' stroke-dasharray="9 5"'}.get(line.kind, "")
    mark = "circuit-bar" if line.kind == "inhibiting" else "circuit-to"
    kind = f"{line.kind or 'plain'}{'' if line.tested else ' untested'}"
    return (
        f'<path class="arrow {kind}" d="{path}" fill="none" stroke="currentColor" '
        f'stroke-opacity="{0.55 if line.tested else 0.25}" stroke-width="{wide:.1f}"{dashes} marker-end="url(#{mark})">'
        f"<title>{_text(line.words)}</title></path>"
    )


def _node(found: Explained, name: str, x: float, y: float, *, linked: bool) -> str:
    whole = "" if found.logit_difference is None else f"of {found.logit_difference:+.2g} logits"
    answer = ["the answer", found.metric.replace("_", " "), whole]
    lines = answer if name == ANSWER else list(_about(found.card(name)))
    words = "".join(
        f'<text x="{x + WIDTH / 2:.0f}" y="{y + 17 + 15 * i:.0f}" text-anchor="middle" '
        f'font-weight="{"normal" if i else "bold"}">{_text(_cut(line))}</text>'
        for i, line in enumerate(lines)
    )
    frame = (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="Canvas" stroke="currentColor" '
        'class="node"/>'
    )
    title = "" if name == ANSWER else f"<title>{_text(found.card(name).words)}</title>"
    group = f"<g>{title}{frame}{words}</g>"
    return f'<a href="#{anchor(name)}">{group}</a>' if linked and name != ANSWER else group


def _about(card: Card) -> Iterator[str]:
    """A node's lines: its name, what it is or reads, what it writes, and what it does."""
    yield card.component
    named, look = card.read.behaviour, main_look(card)
    if named is not None:
        yield f"{named.name} {named.random:.2f}"
    elif look is not None:
        yield f"{look.query} to {look.key} {look.base:.2f}" if look.key else f"at {look.query}"
    if card.written.base is not None:
        yield f"writes {card.written.base:+.2g}"
    mark = " (against)" if card.alone.inhibits else ""
    yield f"moves {card.alone.effect:+.2g}{mark}"


def _cut(line: str) -> str:
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…"


def _text(words: str) -> str:
    return escape(visible(words), quote=True)
