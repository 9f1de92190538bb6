"""config.yaml: written with the record of the run, read back as a RunConfig with the line of what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cotrace import shipped
from cotrace.errors import DamagedRun, InputError, unknown
from cotrace.runs.config import IDENTITY_WORKERS, RunConfig
from cotrace.runs.directory import CONFIG, write_atomically
from cotrace.runs.manifest import seal_text, text_is_whole
from cotrace.tasks.catalogue import FORMATS
from cotrace.text.escape import visible
from cotrace.text.files import refusal

SCHEMA = 1
SCHEMA_KEY = "schema"
RECORD = "record"
"""Key of what was found out by running: versions, hashes, sizes. Not read on replay."""
NOT_FROM_FILES = {
    "trust_remote_code": "ask for a model's code to be run: take the line out, read that code, and type "
    "--trust-remote-code yourself",
    "ray": "say which cluster is joined: take the line out, and type --ray yourself",
    "offload_folder": "say where a model's weights are written: take the line out, and type --offload-folder yourself",
}
"""Options that only the user may set, and the reason why a file may not."""
NOT_STORED = ("out", *NOT_FROM_FILES, *IDENTITY_WORKERS)
"""A config lies in the folder that it would name; who computes is in the record, and changes no result."""
PATHS = ("model", "task", "data", "dictionaries", "donors", "metric")
"""Fields that may name a file or a folder."""
SHIPPED = shipped.NAME
"""The name of the model that comes with the package, whatever folder bears it too."""
LIMIT_BYTES = 16 << 20
"""A larger file is refused before it fills the memory; so is one whose aliases make more of it."""
HEADER = "# Replay with: cotrace trace --config THIS_FILE --out NEW_FOLDER\n"


def write_config(config: RunConfig, record: dict[str, Any]) -> bytes:
    """config.yaml as bytes."""
    stored = {name: _plain(value) for name, value in asdict(config).items() if name not in NOT_STORED}
    return _written({SCHEMA_KEY: SCHEMA, "model": config.model, "task": config.task} | stored | {RECORD: record})


def _written(stored: dict[str, Any]) -> bytes:
    """The file with its hash."""
    text = yaml.safe_dump(stored, sort_keys=False, allow_unicode=True, width=120)
    if visible(text) != text:  # what would steer a terminal, as YAML's own escapes
        text = yaml.safe_dump(stored, sort_keys=False, width=120)
    return seal_text(HEADER + text)


def amend_config(folder: Path, options: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Change options and entries of the record in a run's config.yaml; all else stays as it was written.

    Only for who holds the run's lock. Raises DamagedRun, InputError.
    """
    path, data, _ = _sealed(folder)
    stored = data | {name: _plain(value) for name, value in options.items()}
    write_atomically(path, _written(stored | {RECORD: data[RECORD] | dict(record)}))


def options_in(folder: Path) -> frozenset[str]:
    """The options that a run's config.yaml says: those that there were when it was begun."""
    return frozenset(_sealed(folder)[1]) - {SCHEMA_KEY, RECORD}


def read_config(path: str | Path) -> RunConfig:
    """The RunConfig in a file, its relative paths those of the file's folder. Raises InputError with the line number.

    Warns of a file that was changed since a run wrote it. Raises DamagedRun for one that was cut short.
    """
    text = _text(Path(path))
    data, lines = _load(Path(path), text)
    _check_whole(Path(path), text)
    return _parsed(Path(path), data, lines)


def read_run_config(folder: Path) -> tuple[RunConfig, Mapping[str, Any]]:
    """The RunConfig of a run and its record, exactly as the run wrote them. Raises DamagedRun, InputError."""
    path, data, lines = _sealed(folder)
    record = data[RECORD]
    return _parsed(path, data, lines), record


def _sealed(folder: Path) -> tuple[Path, dict[str, Any], dict[str, int]]:
    """A run's config.yaml, exactly as the run wrote it: its path, what it says, and on which lines."""
    path = folder / CONFIG
    text = _text(path)
    if not text_is_whole(text):
        raise DamagedRun(
            f"{path} is not what the run wrote: it was cut short or changed; restore it, or use it for a new run with "
            f"`cotrace trace --config {path}`"
        )
    data, lines = _load(path, text)
    if not isinstance(data.get(RECORD), dict):
        raise InputError(f"{path} holds no record of the run: trace again")
    return path, data, lines


def read_record(path: str | Path) -> Mapping[str, Any]:
    """Return the record in a run's config.yaml; empty where there is none, or where the file was changed since."""
    text = _text(Path(path))
    found = _load(Path(path), text)[0].get(RECORD) if text_is_whole(text) else None
    return found if isinstance(found, dict) else {}


def _check_whole(path: Path, text: str) -> None:
    whole = text_is_whole(text)
    if whole is None and text.startswith(HEADER):
        raise DamagedRun(
            f"{path} is cut short: its last line, which holds its hash, is missing; restore it, or delete its first "
            "line to use it as it is"
        )
    if whole is False:
        warnings.warn(f"{path} was changed since a run wrote it", stacklevel=3)


def _parsed(path: Path, data: dict[str, Any], lines: Mapping[str, int]) -> RunConfig:
    from pydantic import ValidationError

    record = data.pop(RECORD, None)
    if isinstance(record, dict) and "pairs_judged" not in record:  # of before there was a choice: all judged
        data.setdefault("judge_pairs", "all")
    schema = data.pop(SCHEMA_KEY, SCHEMA)
    if schema != SCHEMA:
        raise InputError(f"{path}, line {lines[SCHEMA_KEY]}: schema {schema!r} is not {SCHEMA}: use the cotrace of it")
    names = [field.name for field in fields(RunConfig)]
    for key in data:
        if key not in names:
            raise InputError(f"{path}, line {lines[key]}: {unknown('field', key, names)}")
    for key, why in NOT_FROM_FILES.items():
        if key in data:
            raise InputError(f"{path}, line {lines[key]}: a file cannot {why}")
    try:
        config: RunConfig = _adapter().validate_python(_from(path.parent, data))
    except ValidationError as error:
        field, reason = refusal(error)
        key = field.partition(".")[0]
        where = f", line {lines[key]}" if key in lines else ""
        raise InputError(f"{path}{where}: {key}: {reason}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return config


@cache
def _adapter() -> Any:
    """Made once: it takes as long as all the rest."""
    from pydantic import TypeAdapter

    return TypeAdapter(RunConfig)


def _from(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The fields, a relative path that leads somewhere from the config's own folder made absolute."""
    return {name: _located(folder, name, value) for name, value in data.items()}


def _located(folder: Path, name: str, value: Any) -> Any:
    if name not in PATHS or not isinstance(value, str) or not value:
        return value
    path, colon, function = value.rpartition(":") if name == "metric" else (value, "", "")
    if name == "task" and Path(value).suffix.lower() not in FORMATS:
        return value  # a folder may bear the name of a task
    before = ""
    if name == "donors":
        from cotrace.donors import donor_file  # which loads torch

        found = donor_file(value)
        if found is None:
            return value  # nor are other donors files
        before, path = f"{found[0]}=", found[1]
    there = folder / path
    return f"{before}{there.resolve()}{colon}{function}" if path and value != SHIPPED and there.exists() else value


def _text(path: Path) -> str:
    try:
        if path.is_file() and (size := path.stat().st_size) > LIMIT_BYTES:
            raise InputError(f"{path} has {size:,} bytes, more than the {LIMIT_BYTES:,} that are read: it is no config")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}; give a config.yaml that a run has written") from None


def _load(path: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in the file, and the line of each key."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_nodes(path, node)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, OverflowError, RecursionError) as error:  # a date or number that cannot be, endless nesting
        raise InputError(f"{path}: {type(error).__name__} in a value: {error}; write it as text in quotes") from None
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}, line 1: a config is a list of 'name: value' lines")
    for key, (marked, _) in zip(data, node.value, strict=False):
        if not isinstance(key, str):
            raise InputError(f"{path}, line {marked.start_mark.line + 1}: {key!r} is not the name of a field")
    return data, {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _check_nodes(path: Path, top: yaml.Node | None) -> None:
    """Refuse what would be lost (keys that stand twice), hidden (<<) or without end. Raises InputError."""
    stack, signs = [] if top is None else [top], 0
    while stack:
        node = stack.pop()
        signs += 1 + len(node.value)
        if signs > LIMIT_BYTES:
            raise InputError(f"{path}: its aliases make more than {LIMIT_BYTES:,} signs of it: it is no config")
        if isinstance(node, yaml.MappingNode):
            _check_keys(path, [key for key, _ in node.value])
            stack += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
        elif "\0" in node.value:
            raise InputError(f"{path}, line {node.start_mark.line + 1}: holds a null byte, which no name or path may")


def _check_keys(path: Path, keys: Sequence[yaml.Node]) -> None:
    seen: set[str] = set()
    for key in keys:
        where = f"{path}, line {key.start_mark.line + 1}"
        if key.tag == "tag:yaml.org,2002:merge":
            raise InputError(f"{where}: << is not read; write the fields out")
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise InputError(f"{where}: {key.value!r} stands twice; keep one")
        seen.add(str(key.value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, tuple) else value
