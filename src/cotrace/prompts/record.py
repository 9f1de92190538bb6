"""One record of the JSON Lines format, checked, to a PromptPair and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cotrace.errors import InputError, unknown
from cotrace.prompts.pair import PromptPair

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

SCHEMA = "pair.schema.json"
KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
"""How JSON's other values are called."""
ELSEWHERE = {
    **dict.fromkeys(("prompt", "clean", "context", "question", "sentence", "text", "input"), "base"),
    **dict.fromkeys(("corrupt", "corrupted", "counterfactual_prompt", "source"), "counterfactual"),
    **dict.fromkeys(("choices", "options", "continuations", "candidates"), "answers"),
    **dict.fromkeys(("answerKey", "answer_index", "correct", "gold"), "target"),
}
"""What other formats (MIB, auto-circuit, question sets) call a field -> its name here."""
EXACT = 2**53
"""From here on a float is no longer every whole number."""
QUOTE_LIMIT = 160
"""The most characters of a value that an error quotes."""


def pair_of(record: object, where: str, default_id: str) -> PromptPair:
    """The pair of a record. Raises InputError that begins with ``where`` and names field, reason and remedy."""
    _check(record, where)
    assert isinstance(record, Mapping)
    try:
        fields = {name: _CONVERT[name](value) if name in _CONVERT else value for name, value in record.items()}
        return PromptPair(**{"id": default_id, **fields, "spans": _with_subject(fields)})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def record_of(pair: PromptPair) -> dict[str, Any]:
    """The record of a pair, as a JSON object without the fields that hold their default: inverse of ``pair_of``."""
    record = {"id": pair.id, "answers": list(pair.answers), **dict(_set_fields(pair))}
    return {name: record[name] for name in properties() if name in record}


def _set_fields(pair: PromptPair) -> Iterator[tuple[str, Any]]:
    for name, default in _DEFAULTS.items():
        value = getattr(pair, name)
        if value != default:
            yield name, _TO_JSON[name](value) if name in _TO_JSON else value


def _with_subject(fields: Mapping[str, Any]) -> Mapping[str, tuple[int, int]]:
    """The spans, with the first place of ``subject`` where it is given as text; in a chat it is found once rendered."""
    spans: dict[str, tuple[int, int]] = fields.get("spans", {})
    base, subject = fields.get("base"), fields.get("subject")
    if base is None or subject is None:
        return spans
    start, end = spans.get("subject") or (base.find(subject), base.find(subject) + len(subject))
    if start < 0:
        raise InputError(f"'subject' is {subject!r}, which does not occur in base; copy it from there")
    if base[start:end] != subject:
        raise InputError(f"'subject' is {subject!r}, but spans.subject holds {base[start:end]!r}; give one of the two")
    return {**spans, "subject": (start, end)}


@cache
def schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of one line."""
    loaded: Mapping[str, Any] = json.loads(files("cotrace.prompts").joinpath(SCHEMA).read_text("utf-8"))
    return loaded


def properties() -> Mapping[str, Mapping[str, Any]]:
    """Name -> schema of every field, in the order of the format's table."""
    fields: Mapping[str, Mapping[str, Any]] = schema()["properties"]
    return fields


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _check(record: object, where: str) -> None:
    if not isinstance(record, Mapping):
        kind = KINDS.get(type(record), type(record).__name__)
        raise InputError(f"{where}: is {kind}, not an object; a line is an object with 'base' and 'answers'")
    check_fields(record, where)
    error = min(_validator().iter_errors(record), key=_urgency, default=None)
    if error is not None:
        raise InputError(f"{where}: {_sentence(error)}")


def check_fields(names: Iterable[object], where: str) -> None:
    """Raise InputError for a field that the format does not have; the names that other formats use are translated."""
    for name in names:
        if name not in properties():
            meant = ELSEWHERE.get(str(name))
            error = unknown("field", name, properties(), meant=meant)
            raise InputError(f"{where}: {error}; keep anything else under 'meta'")


def _urgency(error: ValidationError) -> tuple[bool, str]:
    """A field that is there and wrong comes before one that is missing; then by place, so that messages are stable."""
    return not error.absolute_path, error.json_path


def _sentence(error: ValidationError) -> str:
    """One line for a schema error: the field, what is wrong, what to write instead."""
    if error.validator == "oneOf" and not error.absolute_path:
        return "needs a prompt: give 'base' (text) or 'messages' (chat), one of the two"
    if error.validator == "dependentRequired":
        return f"{error.message}; give both or neither"
    if not error.absolute_path:
        return f"{error.message}; {properties()['answers']['description']}"  # the one required field
    path = "".join(f"[{part!r}]" if i else str(part) for i, part in enumerate(error.absolute_path))
    remedy = properties()[str(error.absolute_path[0])]["description"]
    return f"'{path}': {_shortened(error.message)}; {remedy}"


def _shortened(message: str) -> str:
    half = QUOTE_LIMIT // 2
    return message if len(message) <= QUOTE_LIMIT else f"{message[:half]} ... {message[-half:]}"


def _label(value: str | float) -> str:
    """A name as text; whole numbers that a table keeps as floats, since its column has gaps, are written as such."""
    if isinstance(value, float) and abs(value) >= EXACT:
        raise InputError(f"{value:g} is a float that may have been rounded; give ids and groups as text")
    return str(int(value) if isinstance(value, float) else value)


def _spans(spans: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {role: (int(start), int(end)) for role, (start, end) in spans.items()}


def _spans_json(spans: Mapping[str, tuple[int, int]]) -> dict[str, list[int]]:
    return {role: list(span) for role, span in spans.items()}


_CONVERT: Mapping[str, Any] = {
    **dict.fromkeys(("id", "group", "split_group"), _label),
    **dict.fromkeys(("target", "target_counterfactual", "label", "favourable"), int),
    **dict.fromkeys(("answers", "messages", "counterfactual_messages"), tuple),
    **dict.fromkeys(("spans", "counterfactual_spans"), _spans),
    "weight": float,
}
_TO_JSON: Mapping[str, Any] = {
    **dict.fromkeys(("spans", "counterfactual_spans"), _spans_json),
    **dict.fromkeys(("messages", "counterfactual_messages"), list),
    "meta": dict,
}
_DEFAULTS: Mapping[str, Any] = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in dataclass_fields(PromptPair)
    if field.name not in ("id", "answers")
}
