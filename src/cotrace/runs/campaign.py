"""Grid: the cells of a campaign, one run each: models x tasks x sites x donors x seeds x searches."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from cotrace.errors import DamagedRun, InputError, OutputExists, unknown
from cotrace.evaluation import Evaluation
from cotrace.results import Frontier, Table
from cotrace.runs.addenda import EVALUATION, read_evaluation
from cotrace.runs.config import IDENTITY_WORKERS, RunConfig, identity
from cotrace.runs.config_file import LIMIT_BYTES, NOT_FROM_FILES
from cotrace.runs.directory import CONFIG, write_atomically
from cotrace.runs.manifest import is_finished
from cotrace.runs.result_files import StoredRun
from cotrace.text import escape
from cotrace.text.files import refusal

AXES = {
    "models": "model",
    "tasks": "task",
    "sites": "sites",
    "donors": "donors",
    "seeds": "seed",
    "searches": "searches",
}
"""Axis of the grid -> the field of a run that a plain value of it is."""
NOT_IN_CELLS = ("out", *IDENTITY_WORKERS, *NOT_FROM_FILES)
PATHS = ("model", "task", "data")

Point = str | int | list[str] | dict[str, Any]


class Grid(BaseModel):
    """The axes of a campaign. A point is a value, or a mapping of a run's fields (a model with its revision, say)."""

    model_config = ConfigDict(extra="forbid")

    models: list[Point] = Field(min_length=1)
    tasks: list[Point] = Field(min_length=1)
    sites: list[Point] = Field(default=[{}], min_length=1)
    donors: list[Point] = Field(default=[{}], min_length=1)
    seeds: list[Point] = Field(default=[0], min_length=1)
    searches: list[Point] = Field(default=["pursuit"], min_length=1)
    common: dict[str, Any] = Field(default={})
    """Fields of every run, such as max_size, metric or holdout."""


class Claimed(TypedDict):
    """Content of ``grid.json`` in a campaign's folder."""

    cells: list[str]


@dataclass(frozen=True)
class Cell:
    """One run of a campaign."""

    name: str
    """Name of its folder: the points in words, and a part of the hash of its question."""
    at: Mapping[str, str]
    """Axis -> its point in words."""
    config: RunConfig


def read_grid(path: str | Path) -> list[Cell]:
    """The cells that a file describes, in the order of its axes. Raises InputError, with the field that is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > LIMIT_BYTES:
            raise InputError(f"{path} has more than the {LIMIT_BYTES:,} signs that are read: it is no grid")
        data = yaml.safe_load(text)
        grid = Grid.model_validate(data)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {_reason(error)}") from None
    cells = list(_cells(path, grid))
    names = [cell.name for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: the cell {twice} stands twice: take a point out that is there already")
    return cells


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        where, reason = refusal(error)
        return f"{where or 'the file'}: {reason}; a grid has {', '.join(Grid.model_fields)}"
    mark = getattr(error, "problem_mark", None)
    return f"not YAML{'' if mark is None else f', line {mark.line + 1}'}: {getattr(error, 'problem', None) or error}"


def _cells(path: Path, grid: Grid) -> Iterator[Cell]:
    axes = [getattr(grid, axis) for axis in AXES]
    for points in product(*axes):
        asked = dict(grid.common)
        for field, point in zip(AXES.values(), points, strict=True):
            asked |= point if isinstance(point, dict) else {field: point}
        config = _config(path, asked)
        at = {axis: words(point) for axis, point in zip(AXES, points, strict=True) if point != {}}
        label = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", Path(word).stem or word).strip("_.") for word in at.values())
        yield Cell(f"{label[:100]}-{identity(config)[:8]}", at, config)


def words(point: Point) -> str:
    """A point for people."""
    if isinstance(point, dict):
        return " ".join(map(words, point.values()))
    return "+".join(point) if isinstance(point, list) else str(point)


def _config(path: Path, asked: dict[str, Any]) -> RunConfig:
    names = [field.name for field in fields(RunConfig) if field.name not in NOT_IN_CELLS]
    for name in asked:
        if name not in names:
            raise InputError(f"{path}: {unknown('field of a run', name, names)}")
    for name in ("sites", "searches"):
        if isinstance(asked.get(name), str):
            asked[name] = (asked[name],)
    try:
        config: RunConfig = TypeAdapter(RunConfig).validate_python(_located(path.parent, asked))
    except ValidationError as error:
        field, reason = refusal(error)
        raise InputError(f"{path}: {field.partition('.')[0]}: {reason}") from None
    return config


def _located(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Relative paths are those of the grid's own folder, where something lies there."""
    return {
        name: str((folder / value).resolve())
        if name in PATHS and isinstance(value, str) and value and (folder / value).exists()
        else value
        for name, value in asked.items()
    }


CELLS = "cells"
GRID = "grid.json"
SUMMARY, REPORT = "summary.csv", "report.html"
DEPTHS = 10
"""Parts of a model's depth, by which models of different depth are compared."""
COLUMNS = (
    "cell",
    *AXES,
    "status",
    "k",
    "effect",
    "effect_heldout",
    "p_value",
    "level_before",
    "level_after",
    "components",
)


STYLE = (
    "<style>:root{color-scheme:light dark}body{font:14px system-ui,sans-serif;margin:2em}"
    "table{display:block;overflow-x:auto}</style>"
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell."""

    cell: Cell
    failure: str = ""
    """Why there is no result, in one line; empty where there is one."""
    frontier: Frontier | None = None
    evaluation: Evaluation | None = None

    @property
    def k(self) -> int:
        """The size that is judged in detail, or else the largest."""
        assert self.frontier is not None, "there is a result"
        return self.evaluation.k if self.evaluation else max(self.frontier.sizes)

    def row(self) -> dict[str, Any]:
        """Return the row of the table; figures not computed are empty."""
        found: dict[str, Any] = {"cell": self.cell.name} | dict(self.cell.at)
        if self.frontier is None:
            return found | {"status": f"failed: {self.failure}"}
        one, judged = self.frontier.at(self.k), self.evaluation
        size = None if judged is None else next((row for row in judged.sizes if row.k == self.k), None)
        hard = None if judged is None else judged.hard
        return found | {
            "status": "done",
            "k": self.k,
            "effect": one.effect,
            "effect_heldout": one.effect_heldout,
            "p_value": None if size is None else size.p_value,
            "level_before": None if hard is None else hard.before,
            "level_after": None if hard is None else hard.after,
            "components": " ".join(one.components),
        }


@dataclass(frozen=True)
class Campaign:
    """The folder of a campaign."""

    folder: Path
    cells: Sequence[Cell]

    def claim(self) -> None:
        """Make the folder, or take it up again where it is this grid's. Raises OutputExists."""
        path, names = self.folder / GRID, [cell.name for cell in self.cells]
        if path.is_file():
            known = self._known(path)
            if known != names:  # finished cells stay, others come
                write_atomically(path, self._grid(sorted({*known, *names})))
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise OutputExists(f"{self.folder} holds something that is no campaign: name a new folder with --out")
        (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
        write_atomically(path, self._grid(names))

    @staticmethod
    def _known(path: Path) -> list[str]:
        """The cells that a campaign has. Raises DamagedRun."""
        try:
            return TypeAdapter(Claimed).validate_json(path.read_bytes())["cells"]
        except ValidationError as error:
            reason = ": ".join(filter(None, refusal(error)))
            raise DamagedRun(f"{path} is not what a sweep writes ({reason}); restore it, or name a new --out") from None

    @staticmethod
    def _grid(names: Sequence[str]) -> bytes:
        return json.dumps({"schema": 1, "cells": names}, indent=1).encode()

    def path(self, cell: Cell) -> Path:
        """The folder of a cell's run."""
        return self.folder / CELLS / cell.name

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell's run has come to its end."""
        return is_finished(self.path(cell))

    def is_begun(self, cell: Cell) -> bool:
        """Whether the cell's run can be resumed."""
        return (self.path(cell) / CONFIG).is_file() and not self.is_done(cell)

    def outcome(self, cell: Cell, failure: str = "") -> Outcome:
        """Return the outcome of a cell. Raises InputError, DamagedRun for a run that cannot be read."""
        if failure or not self.is_done(cell):
            return Outcome(cell, failure or "not run yet")
        stored = StoredRun.read(self.path(cell))
        path = self.path(cell) / EVALUATION
        judged = read_evaluation(path) if path.is_file() else None
        return Outcome(cell, "", stored.frontiers[0], judged)

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """The table and the report over all cells."""
        write_atomically(self.folder / SUMMARY, summary_csv(outcomes))
        write_atomically(self.folder / REPORT, report_html(outcomes))


def summary_csv(outcomes: Sequence[Outcome]) -> bytes:
    """One row for each cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for outcome in outcomes:
        writer.writerow(outcome.row())
    return text.getvalue().encode()


def tables(outcomes: Sequence[Outcome]) -> Iterator[Table]:
    """All cells, then what returns, where in the models it lies, and what the metric does in each model."""
    rows = [outcome.row() for outcome in outcomes]
    shown = [name for name in COLUMNS if any(row.get(name) not in (None, "") for row in rows)]
    words = frozenset(i for i, name in enumerate(shown) if name in ("cell", *AXES, "status", "components"))
    yield Table("Cells", shown, [tuple(_shown(row.get(name)) for name in shown) for row in rows], words)
    done = [outcome for outcome in outcomes if outcome.frontier is not None]
    if not done:
        return
    yield Table(
        "Components that return", ("question", "component", "runs", "share"), _returning(done), frozenset({0, 1})
    )
    parts = [f"{i / DEPTHS:.1f}" for i in range(DEPTHS)]
    yield Table(
        "Where they lie: share of the chosen by depth", ("model", "task", *parts), _depths(done), frozenset({0, 1})
    )
    columns = ("model", "task", "runs", "level before", "level after", "effect", "held-out effect")
    yield Table("The metric in each model, means over runs", columns, _levels(done), frozenset({0, 1}))


def _returning(done: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Count how often each component was chosen, over questions that differ in seed and revision alone."""
    chosen: dict[str, list[list[str]]] = defaultdict(list)
    for outcome in done:
        assert outcome.frontier is not None
        at = {axis: word for axis, word in outcome.cell.at.items() if axis != "seeds"} | {
            "models": outcome.cell.config.model
        }
        chosen[", ".join(at.values())].append(list(outcome.frontier.at(outcome.k).components))
    rows: list[tuple[str, ...]] = []
    for question, sets in chosen.items():
        counts = Counter(component for own in sets for component in own)
        rows += [(question, name, f"{n} of {len(sets)}", f"{n / len(sets):.0%}") for name, n in counts.most_common()]
    return rows


def _grouped(done: Sequence[Outcome]) -> Mapping[tuple[str, str], list[Outcome]]:
    found: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in done:
        found[outcome.cell.at["models"], outcome.cell.at["tasks"]].append(outcome)
    return found


def _depths(done: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Layers as fractions of the depth, so that models of different depth are in one table."""
    rows = []
    for (model, task), several in _grouped(done).items():
        counts = Counter(part for outcome in several for part in depths_of(outcome))
        rows.append((model, task, *(f"{counts[i] / counts.total():.0%}" for i in range(DEPTHS))))
    return rows


def depths_of(outcome: Outcome) -> list[int]:
    """The part of the depth that each chosen component lies in, from 0."""
    assert outcome.frontier is not None
    depth = 1 + max(component.layer for component in outcome.frontier.space)
    return [DEPTHS * component.layer // depth for component in outcome.frontier.at(outcome.k).members]


def _levels(done: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows = []
    for (model, task), several in _grouped(done).items():
        found = [outcome.row() for outcome in several]
        names = ("level_before", "level_after", "effect", "effect_heldout")
        rows.append((model, task, str(len(found)), *(_mean([row[name] for row in found]) for name in names)))
    return rows


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.4g}" if known else ""


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def report_html(outcomes: Sequence[Outcome]) -> bytes:
    """One page that loads nothing from anywhere: the tables."""
    failed = sum(outcome.frontier is None for outcome in outcomes)
    said = escape.paragraph(f"{len(outcomes)} cells, {failed} without a result.")
    body = "".join(escape.table(one.title, one.columns, one.rows, one.left) for one in tables(outcomes))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>cotrace sweep</title>'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    page = f'<!doctype html><html lang="en"><head>{head}{policy}{STYLE}</head><body><h1>Sweep</h1>{said}{body}</body>'
    return f"{page}</html>".encode()
