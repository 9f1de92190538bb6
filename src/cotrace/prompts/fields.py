"""Fields of pairs: what results can be broken down by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields as dataclass_fields

from cotrace.errors import unknown
from cotrace.prompts.pair import PromptPair

PLAIN = ("group", "split_group", "target", "label", "favourable", "subject", "target_counterfactual", "weight", "id")
"""Fields of a pair that hold one value."""


def values_of(pairs: Sequence[PromptPair], field: str) -> list[str]:
    """The value of a field for each pair, as text: a field of the format, or a key of ``meta``. Empty where not given.

    Raises UnknownName with the fields that these pairs have.
    """
    if field not in PLAIN and not any(field in pair.meta for pair in pairs):
        raise unknown("field", field, given_fields(pairs))
    found = [getattr(pair, field) if field in PLAIN else pair.meta.get(field) for pair in pairs]
    return ["" if value is None else str(value) for value in found]


def indices_by(pairs: Sequence[PromptPair], field: str) -> dict[str, list[int]]:
    """Value -> indices of the pairs that have it, in order of first appearance. Raises UnknownName."""
    found: dict[str, list[int]] = {}
    for i, value in enumerate(values_of(pairs, field)):
        found.setdefault(value, []).append(i)
    return found


def given_fields(pairs: Sequence[PromptPair]) -> list[str]:
    """The fields that some of these pairs give."""
    defaults = {field.name: field.default for field in dataclass_fields(PromptPair)}
    plain = [name for name in PLAIN if any(getattr(pair, name) != defaults[name] for pair in pairs)]
    return [*plain, *dict.fromkeys(key for pair in pairs for key in pair.meta)]
