"""The results of a run as files, and a finished run read again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from safetensors.numpy import save

from cotrace.errors import InputError, unknown
from cotrace.results import Frontier, Selection
from cotrace.results.frontier_file import COLUMNS
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import read_run_config
from cotrace.runs.directory import CONFIG
from cotrace.runs.manifest import check_files, is_finished
from cotrace.text.escape import json_bytes
from cotrace.text.files import parse_json, read_text

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
    """One row per search and k; figures not computed are empty. Floats are written so that they read back the same."""
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
    return json_bytes(data, nan=True)


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


SELECTION = "selection.json"


@dataclass(frozen=True)
class StoredRun:
    """Content of a run directory; nothing is loaded or computed."""

    path: Path
    config: RunConfig
    frontiers: tuple[Frontier, ...]

    @classmethod
    def read(cls, path: str | Path, *, model: str | None = None) -> StoredRun:
        """The run in a folder; ``model`` takes the stead of the one that it was run on. Raises InputError."""
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(f"there is no run {folder}: give the folder that cotrace trace has written")
        if not (folder / CONFIG).is_file() and not is_finished(folder):
            raise InputError(f"{folder} is not a run: it holds no {CONFIG}; give the folder that cotrace trace named")
        check_files(folder, CONFIG, SELECTION)
        config = read_run_config(folder)[0]
        return cls(folder, config if model is None else replace(config, model=model), _frontiers(folder))

    @property
    def question(self) -> RunConfig:
        """The configuration with the direction that the run took: whoever opens it again looks for no other."""
        return replace(self.config, direction=self.config.direction or self.frontiers[0].direction)

    def frontier(self, search: str | None = None) -> Frontier:
        """The frontier of a search; the first where none is named. Raises UnknownName."""
        by_name = {one.search: one for one in self.frontiers}
        if search is not None and search not in by_name:
            raise unknown("search", search, by_name)
        return self.frontiers[0] if search is None else by_name[search]


def _frontiers(folder: Path) -> tuple[Frontier, ...]:
    path = folder / SELECTION
    text = read_text(path)
    try:
        data: Any = parse_json(text, str(path))
        found = tuple(map(Frontier.from_dict, data["frontiers"]))
    except InputError as error:
        raise InputError(f"{path} is not what a run writes ({error}); run it again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not what a run writes ({type(error).__name__}: {error}); run it again") from None
    if not found or not all(map(len, found)):
        raise InputError(f"{path} holds no frontier, or one without a selection; run it again")
    return found
