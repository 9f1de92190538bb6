"""PromptPair: base and counterfactual prompt with their answers, and the fields that pairs are grouped by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Any

from cotrace.errors import InputError, unknown
from cotrace.validation import check_fields, guarded


def chat_words(messages: Iterable[Mapping[str, Any]]) -> str:
    """A chat as people write it down, before a model's template makes a prompt of it."""
    return " / ".join(f"{message.get('role')}: {message.get('content')}" for message in messages)


@guarded("ct.PromptPair", fields=False)
@dataclass(frozen=True, kw_only=True)
class PromptPair:
    """A base prompt, its counterfactual, and answers; the fields are those of the JSON Lines format."""

    id: str
    """Name of the pair in tables and errors; no two of a task agree."""
    base: str = ""
    """Empty only for a chat (``messages``) that the model's template has not rendered yet."""
    counterfactual: str | None = None
    """None where the donor needs no second prompt (noise, zero, mean)."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """A chat in place of ``base``: mappings of role and content, rendered with the model's own template."""
    counterfactual_messages: tuple[Mapping[str, Any], ...] = ()
    """The chat in place of ``counterfactual``."""
    answers: tuple[str, ...]
    """Continuations as they follow the prompt, usually with a leading space."""
    target: int = 0
    """Index of the answer that is right (or stereotypical) for ``base``."""
    target_counterfactual: int | None = None
    """Index of the answer that is right for ``counterfactual``; None where it is not given."""
    label: int | None = None
    """Index of the gold answer."""
    favourable: int | None = None
    """Index of the favourable answer, for group metrics."""
    group: str | None = None
    """Subgroup, for breakdowns and group metrics."""
    split_group: str | None = None
    """Pairs with the same value stay on one side of the holdout."""
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Role -> [start, end) in characters of ``base``."""
    counterfactual_spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Role -> [start, end) in characters of ``counterfactual``."""
    subject: str | None = None
    """A piece of ``base``, which becomes the span ``subject``."""
    weight: float = 1.0
    """Weight of the pair in means, at least 0."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Anything else; kept, and usable for breakdowns."""

    def __post_init__(self) -> None:
        check_fields(f"pair {self.id}", self)
        if not self.base and not self.messages:
            raise InputError(f"pair {self.id}: 'base' is empty; give a prompt, or a chat as 'messages'")
        if not self.answers:
            raise InputError(f"pair {self.id}: 'answers' needs at least one continuation")
        for name in ("target", "target_counterfactual", "label", "favourable"):
            self._check_index(name, getattr(self, name))
        if not (self.weight >= 0 and self.weight < float("inf")):
            raise InputError(f"pair {self.id}: 'weight' is {self.weight}, must be finite and at least 0")
        self._check_spans("spans", self.spans, self.base)
        self._check_spans("counterfactual_spans", self.counterfactual_spans, self.counterfactual or "")

    def _check_index(self, name: str, index: int | None) -> None:
        if index is not None and not 0 <= index < len(self.answers):
            raise InputError(
                f"pair {self.id}: '{name}' is {index}, but answers count from 0 to {len(self.answers) - 1}"
            )

    def _check_spans(self, name: str, spans: Mapping[str, tuple[int, int]], text: str) -> None:
        for role, (start, end) in spans.items():
            if not 0 <= start < end <= len(text):
                place = f"{name}[{role!r}] is [{start}, {end}]"
                raise InputError(f"pair {self.id}: {place}, outside the prompt's {len(text)} characters")


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
