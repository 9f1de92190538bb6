"""Position roles: which token positions of a prompt a role stands for."""

from __future__ import annotations

from collections.abc import Sequence

from cotrace.batches.texts import Text, Tokenised
from cotrace.errors import AlignmentError

ALL, LAST = "all", "last"


def role_positions(pair_id: str, text: Text, tokens: Tokenised, roles: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Role -> its positions in the prompt. Raises AlignmentError for one that the pair lacks, naming those it has."""
    return {role: _positions(pair_id, role, text, tokens) for role in roles}


def _positions(pair_id: str, role: str, text: Text, tokens: Tokenised) -> tuple[int, ...]:
    count = len(tokens.ids)
    if role == ALL:
        return tuple(range(count))
    if role == LAST:
        return (count - 1,)
    if role not in text.spans:
        has = ", ".join([ALL, LAST, *text.spans])
        raise AlignmentError(f"pair {pair_id} has no role {role!r}: it has {has}; name the span in the pair's 'spans'")
    return span_positions(tokens, *text.spans[role]) or _empty(pair_id, role)


def span_positions(tokens: Tokenised, start: int, end: int) -> tuple[int, ...]:
    """Tokens that stand for some character of [start, end)."""
    return tuple(i for i, (a, b) in enumerate(tokens.offsets) if a < b and a < end and b > start)


def _empty(pair_id: str, role: str) -> tuple[int, ...]:
    raise AlignmentError(f"pair {pair_id}: no token stands for the span {role!r}; a fast tokenizer is needed for spans")
