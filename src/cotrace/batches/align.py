"""Alignment: which position of the donor prompt stands for which position of the base prompt. Never a silent shift."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from transformers import PreTrainedTokenizerBase

from cotrace.batches.roles import span_positions
from cotrace.batches.texts import Text, Tokenised, every
from cotrace.errors import AlignmentError

Align = Literal["exact", "ends", "spans"]
ALIGNMENTS = ("exact", "ends", "spans")
Tokens = tuple[int, ...]


def donor_positions(
    pair_id: str, base: Tokens, donor: Tokens, tokenizer: PreTrainedTokenizerBase, align: Align
) -> Tokens:
    """For each base position its donor position, -1 where none. Raises AlignmentError with both tokenisations.

    ``exact`` needs equal lengths; ``ends`` aligns the shared tokens at the head and at the tail and leaves the middle,
    at equal lengths too.
    """
    if align == "ends":
        return _ends(pair_id, base, donor)
    if len(base) != len(donor):
        raise AlignmentError(
            f"pair {pair_id}: base has {len(base)} tokens and counterfactual {len(donor)}: "
            f"{_show(base, tokenizer)} against {_show(donor, tokenizer)}; reword the pair, or use align='ends'"
        )
    return every(len(base))


def _ends(pair_id: str, base: Tokens, donor: Tokens) -> Tokens:
    shorter = min(len(base), len(donor))
    head = _shared(base, donor)
    tail = min(_shared(base[::-1], donor[::-1]), shorter - head)
    if head + tail == 0:
        raise AlignmentError(f"pair {pair_id}: base and counterfactual share no token at either end; nothing aligns")
    middle = (-1,) * (len(base) - head - tail)
    return (*range(head), *middle, *range(len(donor) - tail, len(donor)))


def _shared(left: Tokens, right: Tokens) -> int:
    """How many tokens agree from the start."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def span_alignment(pair_id: str, base: tuple[Text, Tokenised], donor: tuple[Text, Tokenised]) -> Tokens:
    """Piece by piece, cut at the spans that both prompts name; pieces of equal length align, unequal spans stay own.

    Prompts of equal length are cut as well: their spans may differ in length. Raises AlignmentError where the spans'
    order differs, or text outside the spans has another number of tokens.
    """
    shared = [role for role in sorted(base[0].spans, key=base[0].spans.__getitem__) if role in donor[0].spans]
    if not shared:
        raise AlignmentError(
            f"pair {pair_id}: align='spans' needs 'spans' and 'counterfactual_spans' with a common name"
        )
    cuts = _cuts(pair_id, base, shared), _cuts(pair_id, donor, shared)
    positions: list[int] = []
    for piece, ((a, b), (c, d)) in enumerate(zip(pairwise(cuts[0]), pairwise(cuts[1]), strict=True)):
        if b - a != d - c and piece % 2 == 0:
            raise AlignmentError(
                f"pair {pair_id}: between its spans base has {b - a} tokens where the counterfactual has {d - c}; "
                "only the spans may differ in length"
            )
        positions += range(c, d) if b - a == d - c else [-1] * (b - a)
    return tuple(positions)


def _cuts(pair_id: str, side: tuple[Text, Tokenised], roles: Sequence[str]) -> list[int]:
    """Token positions at which the prompt is cut: before and after each span, in the order of the roles."""
    text, tokens = side
    cuts = [0]
    for role in roles:
        inside = span_positions(tokens, *text.spans[role])
        if not inside or inside[0] < cuts[-1]:
            raise AlignmentError(f"pair {pair_id}: the spans {', '.join(roles)} overlap or stand in another order")
        cuts += [inside[0], inside[-1] + 1]
    return [*cuts, len(tokens.ids)]


def _show(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> str:
    return "|".join(tokenizer.convert_ids_to_tokens(list(tokens)))
