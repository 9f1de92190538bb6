"""config.yaml: written with the record of the run, read back as a RunConfig with the line of what is wrong."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml

from cotrace.errors import InputError, unknown
from cotrace.runs.config import RunConfig

RECORD = "record"
"""Key of what was found out by running: versions, hashes, sizes. Not read on replay."""
NOT_STORED = ("out",)
"""A config lies in the folder that it would name."""
HEADER = "# Replay with: cotrace trace --config THIS_FILE --out NEW_FOLDER\n"


def write_config(config: RunConfig, record: dict[str, Any]) -> bytes:
    """config.yaml as bytes."""
    stored = {name: _plain(value) for name, value in asdict(config).items() if name not in NOT_STORED}
    text = yaml.safe_dump(stored | {RECORD: record}, sort_keys=False, allow_unicode=True, width=120)
    return (HEADER + text).encode()


def read_config(path: str | Path) -> RunConfig:
    """The RunConfig in a file. Raises InputError with the line number."""
    from pydantic import TypeAdapter, ValidationError

    text = _text(Path(path))
    data, lines = _load(Path(path), text)
    data.pop(RECORD, None)
    names = [field.name for field in fields(RunConfig)]
    for key in data:
        if key not in names:
            raise InputError(f"{path}, line {lines[key]}: {unknown('field', key, names)}")
    try:
        return TypeAdapter(RunConfig).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = f", line {lines[key]}" if key in lines else ""
        raise InputError(f"{path}{where}: {key}: {_reason(first)}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _reason(first: Any) -> str:
    return "the field is missing" if first["type"] == "missing" else f"{first['msg']}; it is {first['input']!r}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}; give a config.yaml that a run has written") from None


def _load(path: Path, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in the file, and the line of each key."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise InputError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict) or not isinstance(node, yaml.MappingNode):
        raise InputError(f"{path}, line 1: a config is a list of 'name: value' lines")
    return {str(key): value for key, value in data.items()}, {
        str(key.value): key.start_mark.line + 1 for key, _ in node.value
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, tuple) else value
