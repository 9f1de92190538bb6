"""A frontier as one file: JSON to read and compare, or safetensors, which keeps the effects on every pair as well."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cotrace.components import Direction, Mode
from cotrace.errors import CotraceError, InputError
from cotrace.results.effects import EffectTable
from cotrace.results.selection import number_in, numbers_in
from cotrace.text.escape import json_bytes
from cotrace.text.files import clipped, new_file, parse_json, read_text

SCHEMA, KIND = 1, "cotrace frontier"
JSON, ARRAYS = ".json", ".safetensors"
PARTS = ("training", "heldout")
"""The tables of effects, as they are called in the file."""
Tables = Mapping[str, EffectTable | None]
Made = TypeVar("Made")
TUPLES = ("selections", "bounds", "infeasible_sizes", "by_cost")
ORIGIN = ("model", "donors", "align", "positions", "split")
"""Fields that say where a frontier comes from; files of earlier versions do not have them."""
REPORTED = ("reported_before", "reported", "reported_before_heldout", "reported_heldout")
"""Further columns: the metric as people read it, before and under the mask, where the search followed a soft form."""
OLD_COLUMNS = (
    *("search", "k", "effect", "effect_heldout", "ci_low", "ci_high", "p_value", "forward_equivalents", "components"),
)
COLUMNS = (*OLD_COLUMNS, *REPORTED)
NEEDED = ("forward_equivalents", "full_effect")
NUMBERS = ("full_effect_heldout", "elapsed_s", "reported_before", "reported_before_heldout", "target")


def save_frontier(frontier: Mapping[str, Any], tables: Tables, path: str | Path) -> Path:
    """Write a frontier to a new file: its plain data, and its tables where the format holds them.

    The file is there in full or not at all. Raises InputError, OutputExists.
    """
    target = new_file(path, "another path")
    text = _to_json if _form(target) == JSON else _to_arrays
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text({"kind": KIND, "schema": SCHEMA, "frontier": frontier}, tables))
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"the frontier cannot be written to {target}: {error.strerror}; name another path") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load_frontier(path: str | Path, make: Callable[[dict[str, Any], Tables], Made]) -> Made:
    """Rebuild a frontier from the plain data and tables that ``save_frontier`` wrote. Raises InputError."""
    source = Path(path)
    if source.is_dir():
        raise InputError(f"{source} is a folder: ct.open_run(FOLDER).frontier is that of a run")
    read = _from_json if _form(source) == JSON else _from_arrays
    if not source.is_file():
        raise InputError(f"there is no file {source}; give one that frontier.save has written")
    try:
        return make(*read(source))
    except (CotraceError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(
            f"{source} is not what frontier.save writes ({clipped(_line(error))}); save it again"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _form(path: Path) -> str:
    if path.suffix not in (JSON, ARRAYS):
        raise InputError(
            f"{path} is no format of a frontier: end the name in {JSON}, or in {ARRAYS}, which keeps the effects on "
            "every pair too"
        )
    return path.suffix


def _to_json(data: dict[str, Any], tables: Tables) -> bytes:
    del tables
    return json_bytes(data, nan=True)


def _from_json(path: Path) -> tuple[dict[str, Any], Tables]:
    return _checked(parse_json(read_text(path), path.name)), {}


def _to_arrays(data: dict[str, Any], tables: Tables) -> bytes:
    arrays = {"space": np.array([len(data["frontier"]["space"])])}  # safetensors takes no file without a tensor
    for part, table in tables.items():
        arrays |= {} if table is None else table.to_arrays(part)
    return bytes(save(arrays, {"cotrace": json.dumps(data)}))


def _from_arrays(path: Path) -> tuple[dict[str, Any], Tables]:
    with safe_open(path, "np") as file:
        about = (file.metadata() or {}).get("cotrace", "")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    data = _checked(parse_json(about, path.name))
    return data, {part: EffectTable.from_arrays(len(data["space"]), part, arrays) for part in PARTS}


def _checked(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise ValueError("it does not say that it is a frontier")
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')!r} is not {SCHEMA}: use the cotrace of it")
    found = data["frontier"]
    if not isinstance(found, dict):
        raise TypeError("frontier holds no object")
    return found


def check_form(data: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where a field that stays as it is holds another kind of value."""
    for name in ("search", "metric", "task", "summary", *ORIGIN):
        if not isinstance(data.get(name, ""), str):
            raise TypeError(f"{name} is {data[name]!r:.60}, and needs a text")
    for name, options in (("mode", get_args(Mode)), ("direction", get_args(Direction))):
        if data[name] not in options:
            raise ValueError(f"{name} is {data[name]!r:.60}, and is one of {', '.join(options)}")
    for name in (*NEEDED, *NUMBERS):
        number_in(data, name)
    if None in (data[name] for name in NEEDED):
        raise TypeError(f"{' and '.join(NEEDED)} need numbers")
    for name in ("full_is_clear", "full_is_clear_heldout"):
        if not isinstance(data.get(name, True), bool):
            raise TypeError(f"{name} is {data[name]!r}, not true or false")
    numbers_in({"cost_weights": list(data.get("cost_weights", {}).values())}, "cost_weights")
