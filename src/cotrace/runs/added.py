"""What commands add to a finished run, read back: evaluations and trade-offs, checked field by field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cotrace.errors import InputError
from cotrace.evaluation import Evaluation
from cotrace.json_file import clipped, parse_json, read_text
from cotrace.readout import Explanation
from cotrace.results import Tradeoff

Found = TypeVar("Found")


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in a file. Raises InputError."""
    found = _read(path, lambda data: Evaluation.from_dict(_without_schema(data)), "evaluate")
    if found.k not in [row.k for row in found.sizes]:
        raise _other(path, f"k is {found.k}, which is none of its sizes", "evaluate")
    return found


def read_explanation(path: Path) -> Explanation:
    """The explanation in a file. Raises InputError."""
    found = _read(path, Explanation.from_dict, "explain")
    if not found.cards:
        raise _other(path, "it holds no member", "explain")
    return found


def read_tradeoff(path: Path) -> Tradeoff:
    """The trade-off in a file. Raises InputError."""
    found = _read(path, Tradeoff.from_dict, "edit")
    if not found.points:
        raise _other(path, "it holds no edit", "edit")
    return found


def _read(path: Path, parse: Callable[[dict[str, Any]], Found], command: str) -> Found:
    try:
        data = parse_json(read_text(path), path.name)
    except InputError as error:
        raise _other(path, str(error), command) from None
    if not isinstance(data, dict):
        raise _other(path, f"it is a {type(data).__name__}, not an object", command)
    try:
        return parse(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise _other(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", command) from None


def _without_schema(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "schema"}


def _other(path: Path, why: str, command: str) -> InputError:
    return InputError(f"{path} is not what cotrace {command} writes ({clipped(why)}); {command} again")
