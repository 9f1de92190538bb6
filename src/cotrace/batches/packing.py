"""Batch plans: which segments stand in which row of which forward pass, so that little is padding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from cotrace.batches.encode import EncodedPair
from cotrace.batches.segments import (
    Ints,
    Layout,
    Segment,
    attention_cost,
    donor_pair,
    donor_tokens,
    lay_out,
    packed_segment,
    plain_segments,
    prefix_segment,
    prompt_segment,
)

ROW_TOKENS = 128
"""Most tokens that packed rows are filled to. Attention grows with its square, the padding of a row shrinks with it."""
SHORT, LITTLE = (16, 32, 64), 1.02
"""Lengths that are enough where rows so short have little padding, and how little: cells over tokens."""
ROW_SLACK = (0, 1, 2, 4, 8)
"""Tokens above the average that rows may be longer by, tried in turn."""


@dataclass(frozen=True)
class FrequencyLimit:
    """The length of the longest row of a forward pass above which the model's RoPE takes other frequencies.

    Rows share a pass only where each would have the same frequencies alone.
    """

    after: int
    stepped: bool
    """Whether all longer rows have the same frequencies; else each length has its own."""

    def kind(self, length: int) -> int:
        """Equal for lengths that have the same frequencies."""
        return 0 if length <= self.after else 1 if self.stepped else length


@dataclass(frozen=True)
class Packing:
    """How examples may share rows, and how many tokens a forward pass may hold."""

    packed: bool
    """Whether several examples and answers share a row under a mask of their own."""
    batch_tokens: int
    row_tokens: int = ROW_TOKENS
    row_limit: int | None = None
    """Most tokens of a row together with the kept tokens that it attends to; None where the model sets no limit."""
    patch_answers: bool = False
    """Whether donors act on answer positions as well as on the prompt's."""
    keep_prefix: bool = False
    """Whether keys and values of tokens that no mask changes are computed once and kept."""
    shortcuts: bool = False
    """Whether evaluations may start at the lowest layer in which a mask differs from a reference run."""
    frequencies: FrequencyLimit | None = None
    """The lengths from which RoPE depends on the longest row of a pass; None where a row's company changes nothing."""

    def holding(self, tokens: int) -> Packing:
        """The same with so many tokens to a forward pass."""
        return replace(self, batch_tokens=tokens, row_tokens=min(ROW_TOKENS, tokens))

    def answers_by_kind(self, pair: EncodedPair) -> dict[int, list[int]]:
        """The pair's answers, by the frequencies that prompt and answer (but for its last token) have alone."""
        if self.frequencies is None:
            return {0: list(range(len(pair.answers)))}
        kinds: dict[int, list[int]] = {}
        for a, answer in enumerate(pair.answers):
            kinds.setdefault(self.frequencies.kind(len(pair.prompt) + len(answer) - 1), []).append(a)
        return kinds

    def keeps_prefix(self, pair: EncodedPair) -> bool:
        """Whether a prefix of the pair, run alone, has the frequencies of all its runs."""
        return self.frequencies is None or pair.fed <= self.frequencies.after


def answer_layouts(pairs: Sequence[EncodedPair], examples: Iterable[int], packing: Packing) -> list[Layout]:
    """Layouts that score every answer of these examples; ``examples`` index ``pairs``."""
    offsets, kept = donor_offsets(pairs, packing), prefix_offsets(pairs)
    columns = max(len(pair.answers) for pair in pairs)

    def segments(e: int, answers: Sequence[int]) -> list[Segment]:
        if packing.packed:
            return [packed_segment(e, pairs[e], offsets[e], packing.patch_answers, kept[e], answers)]
        return list(plain_segments(e, pairs[e], offsets[e], packing.patch_answers, answers))

    together: dict[int, list[Segment]] = {}
    apart: list[Layout] = []
    for e in examples:
        kinds = packing.answers_by_kind(pairs[e])
        if len(kinds) == 1:
            ((kind, answers),) = kinds.items()
            together.setdefault(kind, []).extend(segments(e, answers))
        else:
            first, *rest = (_layouts(segments(e, answers), columns, packing)[0] for answers in kinds.values())
            apart.append(replace(first, beside=tuple(rest)))
    return [layout for some in together.values() for layout in _layouts(some, columns, packing)] + apart


def donor_layouts(pairs: Sequence[EncodedPair], packing: Packing) -> list[Layout]:
    """Layouts of the donor runs, in which each token's ``source`` is the flat donor token that it is."""
    donors = [donor_pair(pair) for pair in pairs]
    if packing.patch_answers:
        return answer_layouts(donors, range(len(donors)), packing)
    return prompt_layouts(donors, range(len(donors)), packing)


def prompt_layouts(pairs: Sequence[EncodedPair], examples: Iterable[int], packing: Packing) -> list[Layout]:
    """Layouts of the whole prompts of these examples, without any answer; ``examples`` index ``pairs``."""
    offsets = donor_offsets(pairs, packing)
    kinds: dict[int, list[Segment]] = {}
    for e in examples:
        kind = packing.frequencies.kind(len(pairs[e].prompt)) if packing.frequencies else 0
        kinds.setdefault(kind, []).append(prompt_segment(e, pairs[e], offsets[e]))
    return [layout for segments in kinds.values() for layout in _layouts(segments, 1, packing)]


def prefix_layouts(pairs: Sequence[EncodedPair], packing: Packing) -> list[Layout]:
    """Layouts of the pairs' prefixes, in which each token's ``source`` is the kept token that it is."""
    kept = prefix_offsets(pairs)
    segments = [prefix_segment(e, pair, kept[e]) for e, pair in enumerate(pairs) if pair.prefix]
    return _layouts(segments, 1, packing) if segments else []


def prefix_offsets(pairs: Sequence[EncodedPair]) -> list[int]:
    """Flat index of each pair's first kept token."""
    return list(accumulate((pair.prefix for pair in pairs), initial=0))[:-1]


def donor_offsets(pairs: Sequence[EncodedPair], packing: Packing) -> list[int]:
    """Flat index of each pair's first donor token."""
    return list(accumulate((donor_tokens(pair, packing.patch_answers) for pair in pairs), initial=0))[:-1]


Row = list[Segment]


def _layouts(segments: Sequence[Segment], columns: int, packing: Packing) -> list[Layout]:
    if packing.packed:
        units = [[row] for row in _fill_rows(segments, packing.row_tokens, packing.row_limit)]
    else:
        units = _rows_by_example(segments)
    groups = _group(units, packing.batch_tokens, packing.row_limit)
    return [lay_out(rows, columns, masked=packing.packed) for rows in groups]


def span(segment: Segment) -> int:
    """Tokens of a segment and those kept that it attends to."""
    return len(segment) + len(segment.cached)


def longest_span(pairs: Sequence[EncodedPair]) -> int:
    """The most tokens that a packed row must hold for one of these pairs."""
    return max(len(pair.prompt) + sum(len(answer) - 1 for answer in pair.answers) for pair in pairs)


def _rows_by_example(segments: Sequence[Segment]) -> list[list[Row]]:
    """The plain rows of each example, which stay in one forward pass, longest examples first."""
    units: dict[int, list[Row]] = {}
    for segment in sorted(segments, key=lambda segment: (-len(segment), segment.example)):
        units.setdefault(segment.example, []).append([segment])
    return list(units.values())


def _fill_rows(segments: Sequence[Segment], row_tokens: int, limit: int | None) -> list[Row]:
    """Rows of about equal length: short ones with little padding, or no more than ``row_tokens`` would need."""
    ordered = sorted(
        segments, key=lambda segment: (-len(segment), 0 if limit is None else -span(segment), segment.example)
    )
    lengths = np.array([len(segment) for segment in ordered])
    spans = lengths if limit is None else np.array(list(map(span, ordered)))
    total, longest = int(lengths.sum()), int(lengths[0])
    short = [length for length in SHORT if longest <= length < row_tokens]
    count = math.ceil(total / max(row_tokens, longest))
    level = max(longest, math.ceil(total / count))
    for capacity in (*short, *(level + slack for slack in ROW_SLACK), max(row_tokens, longest)):
        found = _first_fit(lengths, spans, capacity, capacity if limit is None else limit)
        used = np.bincount(found, lengths)
        if len(used) <= count or len(used) * used.max() <= LITTLE * total:
            break
    rows: list[Row] = [[] for _ in range(found.max() + 1)]
    for segment, row in zip(ordered, found.tolist(), strict=True):
        rows[row].append(segment)
    return rows


def _first_fit(lengths: Ints, spans: Ints, capacity: int, limit: int) -> Ints:
    """The row of each segment, longest first: the first with room for it, and for the kept tokens that it needs.

    Segments alike are a bucket: rows take as many of them as they have room for, one row after the other.
    """
    room, spare = (np.full(len(lengths), most) for most in (capacity, limit))
    rows = np.empty(len(lengths), np.int64)
    starts = np.flatnonzero(np.diff(lengths, prepend=-1) | np.diff(spans, prepend=-1))
    used = 0
    for start, stop in zip(starts, [*starts[1:], len(lengths)], strict=True):
        length, whole = lengths[start], spans[start]
        alone = max(1, min(capacity // length, limit // whole))
        free = used + -(-(stop - start) // alone)
        most = np.minimum(room[:free] // length, spare[:free] // whole).clip(min=0)
        most[used:] = alone
        taken = np.diff(np.minimum(np.cumsum(most), stop - start), prepend=0)
        rows[start:stop] = np.repeat(np.arange(free), taken)
        room[:free] -= taken * length
        spare[:free] -= taken * whole
        used = max(used, int(rows[stop - 1]) + 1)
    return rows


def _group(units: Sequence[list[Row]], batch_tokens: int, limit: int | None) -> list[list[Row]]:
    """Consecutive units whose rectangle stays within the budget and the limit; a single unit may exceed the budget."""
    groups: list[list[Row]] = []
    longest = kept = 0
    for unit in units:
        length = max(sum(map(len, row)) for row in unit)
        cached = max(sum(len(segment.cached) for segment in row) for row in unit)
        rows = len(groups[-1]) + len(unit) if groups else 0
        wide, deep = max(longest, length), max(kept, cached)
        fits = attention_cost(rows, wide, deep) <= batch_tokens and (limit is None or wide + deep <= limit)
        if groups and fits:
            groups[-1] += unit
            longest, kept = wide, deep
        else:
            groups.append(list(unit))
            longest, kept = length, cached
    return groups
