"""Segments: one example as a run of tokens; and layouts, which put segments into the rows of a forward pass.

A packed segment holds the prompt once and every answer as a branch behind it; its rows need a mask and positions of
their own. A plain segment holds the prompt and one answer, for models that take no such mask. An answer's last token is
never fed: nothing is read behind it.

Donor tokens of an example are numbered from its offset: those of the donor prompt, then, where answers are patched as
well, those of each answer that are fed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cotrace.batches.encode import EncodedPair
from cotrace.batches.tokenize import every

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Segment:
    """The tokens of one example (or of one of its answers) in the order in which they stand in a row."""

    example: int
    ids: Ints
    positions: Ints
    """Position of each token in its own text."""
    branch: Ints
    """0 in the prompt, a + 1 in answer a."""
    source: Ints
    """Flat index of the donor token that may replace this one's values; -1 where none may."""
    roles: Mapping[str, Flags]
    """Position role -> which tokens have it."""
    cached: Ints
    """Flat index of each leading token of the prompt that is not in the segment: its keys and values are kept."""
    scored_at: Ints
    """Index in the segment from which a scored token is predicted."""
    scored_token: Ints
    scored_answer: Ints

    def __len__(self) -> int:
        return len(self.ids)


def shared_prefix(pair: EncodedPair) -> int:
    """Leading tokens on which prompt and donor prompt agree, all but the last token of the prompt at most."""
    count = 0
    for position, (own, donor) in enumerate(zip(pair.prompt[:-1], pair.donor or pair.prompt, strict=False)):
        if own != donor or pair.donor_positions[position] != position:
            break
        count += 1
    return count


def donor_tokens(pair: EncodedPair, with_answers: bool) -> int:
    """How many donor tokens a pair has."""
    fed = sum(len(answer) - 1 for answer in pair.answers) if with_answers else 0
    return len(pair.donor or pair.prompt) + fed


def donor_pair(pair: EncodedPair) -> EncodedPair:
    """Return the donor run as a pair of its own, each token its own donor, for recording."""
    prompt = pair.donor or pair.prompt
    return replace(pair, prompt=prompt, donor=(), donor_positions=every(len(prompt)), roles={}, prefix=0)


def packed_segment(
    example: int, pair: EncodedPair, offset: int, with_answers: bool, cache_offset: int, answers: Sequence[int]
) -> Segment:
    """Return a segment of these answers of a pair behind its prompt; ``offset`` is the flat index of its first donor
    token.

    The pair's prefix is left out; ``cache_offset`` is the flat index of its first kept token.
    """
    whole = _segment(example, pair, offset, answers, with_answers)
    return _without_prefix(whole, pair.prefix, cache_offset)


def _without_prefix(segment: Segment, prefix: int, cache_offset: int) -> Segment:
    return replace(
        segment,
        ids=segment.ids[prefix:],
        positions=segment.positions[prefix:],
        branch=segment.branch[prefix:],
        source=segment.source[prefix:],
        roles={role: flags[prefix:] for role, flags in segment.roles.items()},
        cached=cache_offset + np.arange(prefix),
        scored_at=segment.scored_at - prefix,
    )


def prefix_segment(example: int, pair: EncodedPair, cache_offset: int) -> Segment:
    """The prefix of a pair alone, whose keys and values are to be kept: token i is kept token ``cache_offset + i``."""
    prompt = pair.prompt[: pair.prefix]
    bare = replace(pair, prompt=prompt, donor=(), donor_positions=every(len(prompt)), roles={}, prefix=0)
    return _segment(example, bare, cache_offset, [], with_answers=False)


def plain_segments(
    example: int, pair: EncodedPair, offset: int, with_answers: bool, answers: Sequence[int]
) -> Iterator[Segment]:
    """One segment per answer of several tokens; the answers of one token share the prompt alone."""
    short = [a for a in answers if len(pair.answers[a]) == 1]
    if short:
        yield _segment(example, pair, offset, short, with_answers)
    for a in answers:
        if len(pair.answers[a]) > 1:
            yield _segment(example, pair, offset, [a], with_answers)


def prompt_segment(example: int, pair: EncodedPair, offset: int) -> Segment:
    """A pair's prompt alone, for recording."""
    return _segment(example, pair, offset, [], with_answers=False)


def _segment(example: int, pair: EncodedPair, offset: int, answers: Sequence[int], with_answers: bool) -> Segment:
    n = len(pair.prompt)
    ids, positions, branch = list(pair.prompt), list(range(n)), [0] * n
    source = [offset + position if position >= 0 else -1 for position in pair.donor_positions]
    at, token, answer_of = [list[int]() for _ in range(3)]
    first = _first_donor_tokens(pair, offset) if with_answers else []
    for a in answers:
        tokens = pair.answers[a]
        fed = len(tokens) - 1
        at += [n - 1, *range(len(ids), len(ids) + fed)]
        token += tokens
        answer_of += [a] * len(tokens)
        positions += range(n, n + fed)
        branch += [a + 1] * fed
        source += range(first[a], first[a] + fed) if with_answers else [-1] * fed
        ids += tokens[:-1]
    roles = {role: _flags(where, len(ids)) for role, where in pair.roles.items() if role != "all"}
    return Segment(
        example=example,
        ids=_ints(ids),
        positions=_ints(positions),
        branch=_ints(branch),
        source=_ints(source),
        roles=roles,
        cached=_ints([]),
        scored_at=_ints(at),
        scored_token=_ints(token),
        scored_answer=_ints(answer_of),
    )


def _ints(numbers: Sequence[int]) -> Ints:
    return np.array(numbers, np.int64)


def _first_donor_tokens(pair: EncodedPair, offset: int) -> list[int]:
    """Flat index of the first donor token of each answer."""
    starts = [offset + len(pair.donor or pair.prompt)]
    for answer in pair.answers:
        starts.append(starts[-1] + len(answer) - 1)
    return starts


def _flags(where: Sequence[int], length: int) -> Flags:
    flags = np.zeros(length, bool)
    flags[list(where)] = True
    return flags


LONG = 512
"""Keys above which attention rules what a row costs: where they are twice as many, a token counts as two."""


@dataclass(frozen=True, eq=False)
class Layout:
    """One forward pass. Nothing in it depends on the mask z."""

    examples: tuple[int, ...]
    """The examples that it scores, ascending; ``example`` and ``scored_cell`` count within this list."""
    answers: int
    """Columns of the scores: the most answers that any example of the problem has."""
    input_ids: Int[Tensor, "row pos"]
    position_ids: Int[Tensor, "row pos"]
    masked: bool
    """Whether rows hold several segments, kept apart by ``allowed``; else each is plain text, padded on the right."""
    example: Int[Tensor, "row pos"]
    """Example of each token; -1 for padding."""
    branch: Int[Tensor, "row pos"]
    """0 in a prompt, a + 1 in answer a."""
    source: Int[Tensor, "row pos"]
    """Flat donor token of each token; -1 where the running value stays."""
    roles: Mapping[str, Bool[Tensor, "row pos"]]
    """Position role -> which tokens have it; ``all`` needs no entry."""
    cached: Int[Tensor, "row cached"]
    """Flat index of each kept prefix token that the row's tokens attend to; -1 for padding."""
    cached_example: Int[Tensor, "row cached"]
    cached_position: Int[Tensor, "row cached"]
    """Example of each kept token, -1 for padding, and its position in the prompt."""
    read_at: Int[Tensor, "read"]
    """Flat positions (row * T + pos) at which the output head is applied."""
    scored_read: Int[Tensor, "scored"]
    """For each scored token the entry of ``read_at`` that predicts it."""
    scored_token: Int[Tensor, "scored"]
    scored_cell: Int[Tensor, "scored"]
    """For each scored token its cell in the flattened [example, answer] table."""
    beside: tuple[Layout, ...] = ()
    """Passes for further answers of the same examples, which must not share one with these; their scores add up."""

    @property
    def passes(self) -> tuple[Layout, ...]:
        """This forward pass and those beside it."""
        return (self, *self.beside)

    def patched(self, role: str) -> Bool[Tensor, "row pos"]:
        """Tokens whose values a component of this role may replace."""
        some = self.source >= 0
        return some & self.roles[role] if role in self.roles else some

    def allowed(self) -> Bool[Tensor, "row pos key"]:
        """Which token attends to which, kept prefix tokens first: a mask for one forward pass, and not kept.

        Own example, not later, and the prompt or the own branch. Padding attends to itself, lest it be empty.
        """
        real = (self.example >= 0)[:, :, None]
        inside = (self.branch[:, None, :] == 0) | (self.branch[:, None, :] == self.branch[:, :, None])
        inside &= self.example[:, :, None] == self.example[:, None, :]
        inside &= real & torch.ones(self.length, self.length, dtype=torch.bool).tril()
        inside |= torch.eye(self.length, dtype=torch.bool)
        kept = (self.example[:, :, None] == self.cached_example[:, None, :]) & real
        return torch.cat([kept, inside], 2)

    @cached_property
    def rows(self) -> int:
        return self.input_ids.shape[0]

    @cached_property
    def length(self) -> int:
        return self.input_ids.shape[1]

    @property
    def cells(self) -> int:
        """Tokens of the rectangle, padding included."""
        return self.input_ids.numel() + sum(layout.cells for layout in self.beside)

    @cached_property
    def cost(self) -> int:
        """Cost of a forward pass, in tokens: see ``attention_cost``."""
        own = attention_cost(self.rows, self.length, self.cached.shape[1])
        return own + sum(layout.cost for layout in self.beside)

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return int((self.example >= 0).sum()) + sum(layout.tokens for layout in self.beside)


def attention_cost(rows: int, length: int, kept: int = 0) -> int:
    """Return the cost of a rectangle of tokens: its tokens, and more where each may attend to more than ``LONG``."""
    return rows * length * max(LONG, length + kept) // LONG


def lay_out(rows: Sequence[Sequence[Segment]], answers: int, *, masked: bool) -> Layout:
    """Lay segments out in rows. ``masked``: several to a row, kept apart by a mask; else one to a row."""
    examples = sorted({segment.example for row in rows for segment in row})
    local = {example: i for i, example in enumerate(examples)}
    length = max(sum(map(len, row)) for row in rows)
    kept = max(sum(len(segment.cached) for segment in row) for row in rows)
    grid = _Grid(len(rows), length, kept)
    reads: list[Ints] = []
    tokens: list[Ints] = []
    cells: list[Ints] = []
    for r, row in enumerate(rows):
        start = 0
        for segment in row:
            grid.put(r, start, segment, local[segment.example])
            reads.append(segment.scored_at + r * length + start)
            tokens.append(segment.scored_token)
            cells.append(segment.scored_answer + answers * local[segment.example])
            start += len(segment)
    read_at, scored_read = np.unique(np.concatenate(reads), return_inverse=True)
    as_tensor = torch.from_numpy
    return Layout(
        examples=tuple(examples),
        answers=answers,
        input_ids=as_tensor(grid.ids),
        position_ids=as_tensor(grid.positions),
        masked=masked,
        example=as_tensor(grid.example),
        branch=as_tensor(grid.branch),
        source=as_tensor(grid.source),
        cached=as_tensor(grid.cached),
        cached_example=as_tensor(grid.cached_example),
        cached_position=as_tensor(grid.cached_position),
        roles={role: as_tensor(flags) for role, flags in grid.roles.items()},
        read_at=as_tensor(read_at),
        scored_read=as_tensor(scored_read.astype(np.int64)),
        scored_token=as_tensor(np.concatenate(tokens).astype(np.int64)),
        scored_cell=as_tensor(np.concatenate(cells).astype(np.int64)),
    )


class _Grid:
    """The rectangle of tokens while it is filled."""

    def __init__(self, rows: int, length: int, kept: int) -> None:
        self.filled = [0] * rows
        self.cached, self.cached_example = (np.full((rows, kept), -1, np.int64) for _ in range(2))
        self.cached_position = np.zeros((rows, kept), np.int64)
        self.ids = np.zeros((rows, length), np.int64)
        self.positions = np.zeros((rows, length), np.int64)
        self.example = np.full((rows, length), -1, np.int64)
        self.branch = np.zeros((rows, length), np.int64)
        self.source = np.full((rows, length), -1, np.int64)
        self.roles: dict[str, npt.NDArray[np.bool_]] = {}

    def put(self, row: int, start: int, segment: Segment, example: int) -> None:
        at = slice(start, start + len(segment))
        self.ids[row, at] = segment.ids
        self.positions[row, at] = segment.positions
        self.branch[row, at] = segment.branch
        self.source[row, at] = segment.source
        self.example[row, at] = example
        for role, flags in segment.roles.items():
            self.roles.setdefault(role, np.zeros(self.ids.shape, bool))[row, at] = flags
        kept = slice(self.filled[row], self.filled[row] + len(segment.cached))
        self.cached[row, kept] = segment.cached
        self.cached_example[row, kept] = example
        self.cached_position[row, kept] = np.arange(len(segment.cached))
        self.filled[row] = kept.stop
