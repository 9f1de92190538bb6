"""An explanation as files for other tools: JSON, a graph for networkx, Gephi and yEd, and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotrace.components import Component
from cotrace.errors import InputError
from cotrace.new_file import new_file
from cotrace.readout.card import Card, Explained
from cotrace.readout.diagram import ANSWER
from cotrace.results.frames import MEMBER_COLUMNS
from cotrace.statistics import Interval, covers
from cotrace.visible import visible, visible_json

if TYPE_CHECKING:
    import networkx
    import pandas as pd

SCHEMA = 1
NAMES = ("explanation.json", "explanation.graphml", "explanation-members.csv", "explanation-arrows.csv")


def explanation_json(found: Explained) -> bytes:
    """An explanation as JSON, its words first."""
    data = {"schema": SCHEMA, "words": list(found.words), **found.to_dict()}
    return (visible_json(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)) + "\n").encode()


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
    """What GraphML can hold: no value is no attribute."""
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
