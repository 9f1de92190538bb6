"""Position roles: which token positions of a prompt a role stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cotrace.batches.texts import Text, Tokenised, every
from cotrace.errors import AlignmentError
from cotrace.prompts import PromptPair

ALL, LAST = "all", "last"


def role_positions(pair_id: str, text: Text, tokens: Tokenised, roles: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Role -> its positions in the prompt. Raises AlignmentError for one that the pair lacks, naming those it has."""
    return {role: _positions(pair_id, role, text, tokens) for role in roles}


def _positions(pair_id: str, role: str, text: Text, tokens: Tokenised) -> tuple[int, ...]:
    count = len(tokens.ids)
    if role == ALL:
        return every(count)
    if role == LAST:
        return (count - 1,)
    if role not in text.spans:
        raise _lacking(pair_id, role, text.spans)
    return span_positions(tokens, *text.spans[role]) or _empty(pair_id, role)


def check_role(pairs: Sequence[PromptPair], role: str) -> None:
    """Raise AlignmentError for a role that no pair has, whatever the tokens; chats name theirs once rendered."""
    if role not in (ALL, LAST) and not any(pair.messages or role in pair.spans for pair in pairs):
        raise _lacking(pairs[0].id, role, pairs[0].spans)


def _lacking(pair_id: str, role: str, spans: Iterable[str]) -> AlignmentError:
    has = ", ".join([ALL, LAST, *spans])
    return AlignmentError(f"pair {pair_id} has no role {role!r}: it has {has}; name the span in the pair's 'spans'")


def span_positions(tokens: Tokenised, start: int, end: int) -> tuple[int, ...]:
    """Tokens that stand for some character of [start, end)."""
    return tuple(i for i, (a, b) in enumerate(tokens.offsets) if a < b and a < end and b > start)


def _empty(pair_id: str, role: str) -> tuple[int, ...]:
    raise AlignmentError(f"pair {pair_id}: no token stands for the span {role!r}; a fast tokenizer is needed for spans")


def named_positions(text: Text, tokens: Tokenised, length: int) -> dict[str, tuple[int, ...]]:
    """Each span that a prompt names -> its tokens among the first ``length``; spans without any are left out."""
    found = {role: span_positions(tokens, *span) for role, span in text.spans.items()}
    kept = {role: tuple(i for i in where if i < length) for role, where in found.items()}
    return {role: where for role, where in kept.items() if where}
