"""Strips: one example as a run of tokens, with what attends to what, what is patched and what is scored.

A packed strip holds the prompt once and every answer as a branch behind it; its rows need a mask and positions of their
own. A plain strip holds the prompt and one answer, for models that take no such mask. An answer's last token is never
fed: nothing is read behind it.

Donor tokens of an example are numbered from its offset: those of the donor prompt, then, where answers are patched as
well, those of each answer that are fed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cotrace.batches.encode import EncodedPair
from cotrace.batches.texts import every

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Strip:
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
    """Flat index of each leading token of the prompt that is not in the strip: its keys and values are kept."""
    scored_at: Ints
    """Index in the strip from which a scored token is predicted."""
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
    """The donor run as a pair of its own, each token its own donor: what is recorded."""
    prompt = pair.donor or pair.prompt
    return replace(pair, prompt=prompt, donor=(), donor_positions=every(len(prompt)), roles={}, prefix=0)


def packed_strip(
    example: int, pair: EncodedPair, offset: int, with_answers: bool, cache_offset: int, answers: Sequence[int]
) -> Strip:
    """These answers of a pair behind its prompt; ``offset`` is the flat index of its first donor token.

    The pair's prefix is left out; ``cache_offset`` is the flat index of its first kept token.
    """
    whole = _strip(example, pair, offset, answers, with_answers)
    return _without_prefix(whole, pair.prefix, cache_offset)


def _without_prefix(strip: Strip, prefix: int, cache_offset: int) -> Strip:
    return replace(
        strip,
        ids=strip.ids[prefix:],
        positions=strip.positions[prefix:],
        branch=strip.branch[prefix:],
        source=strip.source[prefix:],
        roles={role: flags[prefix:] for role, flags in strip.roles.items()},
        cached=cache_offset + np.arange(prefix),
        scored_at=strip.scored_at - prefix,
    )


def prefix_strip(example: int, pair: EncodedPair, cache_offset: int) -> Strip:
    """The prefix of a pair alone, whose keys and values are to be kept: token i is kept token ``cache_offset + i``."""
    prompt = pair.prompt[: pair.prefix]
    bare = replace(pair, prompt=prompt, donor=(), donor_positions=every(len(prompt)), roles={}, prefix=0)
    return _strip(example, bare, cache_offset, [], with_answers=False)


def plain_strips(
    example: int, pair: EncodedPair, offset: int, with_answers: bool, answers: Sequence[int]
) -> Iterator[Strip]:
    """One strip per answer of several tokens; the answers of one token share the prompt alone."""
    short = [a for a in answers if len(pair.answers[a]) == 1]
    if short:
        yield _strip(example, pair, offset, short, with_answers)
    for a in answers:
        if len(pair.answers[a]) > 1:
            yield _strip(example, pair, offset, [a], with_answers)


def prompt_strip(example: int, pair: EncodedPair, offset: int) -> Strip:
    """A pair's prompt alone, for recording."""
    return _strip(example, pair, offset, [], with_answers=False)


def _strip(example: int, pair: EncodedPair, offset: int, answers: Sequence[int], with_answers: bool) -> Strip:
    n = len(pair.prompt)
    ids, positions, branch = list(pair.prompt), list(range(n)), [0] * n
    source = [offset + position if position >= 0 else -1 for position in pair.donor_positions]
    at, token, answer_of = [list[int]() for _ in range(3)]
    first = _first_donor_tokens(pair, offset)
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
    return Strip(
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
