"""Grid: the cells of a campaign, one run each: models x tasks x sites x donors x seeds x searches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cotrace.errors import InputError, unknown
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import LIMIT_BYTES, NOT_FROM_FILES
from cotrace.runs.identity import WORKERS, identity

AXES = {
    "models": "model",
    "tasks": "task",
    "sites": "sites",
    "donors": "donors",
    "seeds": "seed",
    "searches": "searches",
}
"""Axis of the grid -> the field of a run that a plain value of it is."""
NOT_IN_CELLS = ("out", *WORKERS, *NOT_FROM_FILES)
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


@dataclass(frozen=True)
class Cell:
    """One run of a campaign."""

    name: str
    """Of its folder: the points in words, and a part of the hash of its question."""
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
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        return f"{where}: {first['msg']}; a grid has {', '.join(Grid.model_fields)}"
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
        first = error.errors()[0]
        raise InputError(f"{path}: {first['loc'][0]}: {first['msg']}; it is {first['input']!r}") from None
    return config


def _located(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Relative paths are those of the grid's own folder, where something lies there."""
    return {
        name: str((folder / value).resolve())
        if name in PATHS and isinstance(value, str) and value and (folder / value).exists()
        else value
        for name, value in asked.items()
    }
