"""The results of a run as the bytes of its files: frontier.csv, history.csv, selection.json, masks.safetensors."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from safetensors.numpy import save

from cotrace.results import Frontier, Selection
from cotrace.results.frontier import COLUMNS
from cotrace.visible import visible_json

SHARE = 0.9
"""Share of the best effect from which a selection counts as enough."""


@dataclass(frozen=True)
class Step:
    """One row of history.csv: where a search stood after a step."""

    search: str
    phase: str
    step: int
    forward_equivalents: float
    evaluated: int
    """Sets evaluated so far."""
    best_k: int
    """Size of the best set so far."""
    best_effect: float


def frontier_csv(frontiers: Iterable[Frontier], columns: Sequence[str] = COLUMNS) -> bytes:
    """One row per search and k; what was not computed is empty. Floats are written so that they read back the same."""
    rows = [row for frontier in frontiers for row in frontier.rows()]
    return _csv(columns, [{name: row[name] for name in columns} for row in rows])


def history_csv(steps: Iterable[Step]) -> bytes:
    """One row per step of each search."""
    return _csv(tuple(Step.__dataclass_fields__), [asdict(step) for step in steps])


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def enough(frontier: Frontier, share: float = SHARE) -> Selection:
    """The smallest selection that has this share of the best effect found, counted from no effect."""
    return frontier.enough(share)


def selection_json(frontiers: Sequence[Frontier]) -> bytes:
    """The chosen selection of the first search, and every frontier in full."""
    first = frontiers[0]
    chosen = {
        "search": first.search,
        "rule": f"smallest k with {SHARE:.0%} of the best effect",
        **enough(first).to_dict(),
    }
    data = {"schema": 1, "summary": first.summary, "chosen": chosen, "frontiers": [_untimed(f) for f in frontiers]}
    return (visible_json(json.dumps(data, indent=1, ensure_ascii=False)) + "\n").encode()


def _untimed(frontier: Frontier) -> dict[str, Any]:
    """The frontier without the seconds that it took, which differ from run to run: log.txt has them."""
    return frontier.to_dict() | {"elapsed_s": None}


def masks_safetensors(frontiers: Sequence[Frontier]) -> bytes:
    """For each search ``SEARCH.masks`` [size, n], true where a component takes the donor's value; ``SEARCH.sizes``."""
    first = frontiers[0]
    about = {"schema": 1, "true": "the donor's value", "mode": first.mode, "components": first.space.names}
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for frontier in frontiers:
        tensors[f"{frontier.search}.masks"] = masks(frontier)
        tensors[f"{frontier.search}.sizes"] = sizes(frontier)
    # One entry: the library writes several in an order that changes from process to process.
    return bytes(save(tensors, {"cotrace": json.dumps(about)}))


def masks(frontier: Frontier) -> Bool[np.ndarray, "size n"]:
    """The mask of each selection: 1 is the donor's value in both modes."""
    chosen = np.stack([frontier.space.indicator(selection.members) for selection in frontier])
    return chosen if frontier.mode == "swap" else ~chosen


def sizes(frontier: Frontier) -> Int[np.ndarray, "size"]:
    """The size of each selection."""
    return np.array(frontier.sizes, dtype=np.int64)
