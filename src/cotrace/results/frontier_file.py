"""A frontier as one file: JSON to read and compare, or safetensors, which keeps the effects on every pair as well."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cotrace.errors import CotraceError, InputError
from cotrace.json_file import clipped, parse_json, read_text
from cotrace.new_file import new_file
from cotrace.results.effects import EffectTable
from cotrace.results.frontier import Frontier
from cotrace.visible import visible_json

SCHEMA, KIND = 1, "cotrace frontier"
PARTS = {"training": "effects", "heldout": "effects_heldout"}
"""Name of a table in the file -> the frontier's field."""


def save_frontier(frontier: Frontier, path: str | Path) -> Path:
    """Write a new file; it is there in full or not at all. Raises InputError, OutputExists."""
    target = new_file(path, "another path")
    make = _form(target)[0]
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(make(frontier))
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"the frontier cannot be written to {target}: {error.strerror}; name another path") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load_frontier(path: str | Path) -> Frontier:
    """Read what ``save_frontier`` wrote. Raises InputError."""
    source = Path(path)
    if source.is_dir():
        raise InputError(f"{source} is a folder: ct.open_run(FOLDER).frontier is that of a run")
    read = _form(source)[1]
    if not source.is_file():
        raise InputError(f"there is no file {source}; give one that frontier.save has written")
    try:
        return read(source)
    except (CotraceError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(
            f"{source} is not what frontier.save writes ({clipped(_line(error))}); save it again"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _form(path: Path) -> tuple[Callable[[Frontier], bytes], Callable[[Path], Frontier]]:
    forms = {".json": (_to_json, _from_json), ".safetensors": (_to_arrays, _from_arrays)}
    if path.suffix not in forms:
        raise InputError(
            f"{path} is no format of a frontier: end the name in .json, or in .safetensors, which keeps the effects on "
            "every pair too"
        )
    return forms[path.suffix]


def _to_json(frontier: Frontier) -> bytes:
    data = {"kind": KIND, "schema": SCHEMA, "frontier": frontier.to_dict()}
    return (visible_json(json.dumps(data, indent=1, ensure_ascii=False)) + "\n").encode()


def _from_json(path: Path) -> Frontier:
    return _parsed(parse_json(read_text(path), path.name))


def _to_arrays(frontier: Frontier) -> bytes:
    tables = {part: getattr(frontier, name) for part, name in PARTS.items()}
    arrays = {"space": np.array([len(frontier.space)])}  # safetensors takes no file without a tensor
    for part, table in tables.items():
        arrays |= {} if table is None else table.to_arrays(part)
    data = {"kind": KIND, "schema": SCHEMA, "frontier": frontier.to_dict()}
    return bytes(save(arrays, {"cotrace": json.dumps(data)}))


def _from_arrays(path: Path) -> Frontier:
    with safe_open(path, "np") as file:
        about = (file.metadata() or {}).get("cotrace", "")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    frontier = _parsed(parse_json(about, path.name))
    n = len(frontier.space)
    seen, unseen = (EffectTable.from_arrays(n, part, arrays) for part in PARTS)
    return replace(frontier, effects=seen, effects_heldout=unseen)


def _parsed(data: Any) -> Frontier:
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise ValueError("it does not say that it is a frontier")
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')!r} is not {SCHEMA}: use the cotrace of it")
    return Frontier.from_dict(data["frontier"])
