"""cotrace's own JSON: what runs write as selection.json, checked against ``selection.schema.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cotrace.errors import InputError
from cotrace.interchange.about import About
from cotrace.json_file import clipped, shortened
from cotrace.results import Selection

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

SCHEMA = "selection.schema.json"


def document(selection: Selection, about: About, *, search: str = "", rule: str = "") -> dict[str, Any]:
    """A selection as the JSON document of the schema."""
    words = {name: text for name, text in (("search", search), ("rule", rule)) if text}
    return {"schema": 1, "about": about.to_dict(), "chosen": words | selection.to_dict()}


def selection_of(data: Mapping[str, Any], where: str) -> Selection:
    """The chosen selection of a document. Raises InputError that begins with ``where``."""
    check(data, where)
    chosen = data["chosen"]
    k, count = chosen.get("k"), len(chosen["components"])
    if k is not None and k != count:
        raise InputError(f"{where}: chosen.k is {k}, but chosen.components has {count}; mend one of the two")
    try:
        return Selection.from_dict(chosen)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def check(data: object, where: str) -> None:
    """Raise InputError with the first place where a document departs from the schema."""
    error = min(_validator().iter_errors(data), key=lambda found: found.json_path, default=None)
    if error is not None:
        raise InputError(f"{where}: {_sentence(error)}")


@cache
def schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of a selection."""
    loaded: Mapping[str, Any] = json.loads(files("cotrace.interchange").joinpath(SCHEMA).read_text("utf-8"))
    return loaded


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _sentence(error: ValidationError) -> str:
    place = error.json_path.removeprefix("$").removeprefix(".") or "the document"
    if error.validator == "pattern":
        return f"{place} is {shortened(error.instance)}, no component; write it as L9.head6, L3.neuron1207 or L5.mlp"
    return f"{place}: {clipped(error.message)}; the format is described in docs/interchange.md"
