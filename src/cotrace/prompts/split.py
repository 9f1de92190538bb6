"""Holdout and audit: shares of the pairs that the search never sees, drawn by seed, near-duplicates kept together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cotrace.errors import InputError
from cotrace.prompts.fields import values_of
from cotrace.prompts.pair import PromptPair
from cotrace.showing import warn


class RepeatedPairs(UserWarning):
    """Pairs that are held out have been searched under another id."""


class Parts(NamedTuple):
    """Indices of pairs, each in file order."""

    training: list[int]
    heldout: list[int]
    audit: list[int]
    """Touched by nothing until the final figures."""


def split(pairs: Sequence[PromptPair], share: float | int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of training and held-out pairs, both in file order. Pairs with one ``split_group`` stay together."""
    parts = split_parts(pairs, share, seed)
    return parts.training, parts.heldout


def split_parts(
    pairs: Sequence[PromptPair], share: float | int, seed: int, *, audit: float | int = 0, by: str | None = None
) -> Parts:
    """Training, held-out and audit pairs. Pairs with one value of the field ``by`` (``split_group``) stay together.

    Groups are drawn in random order until the held-out share is reached, then on until the audit share is; so the
    held-out pairs are the same with and without an audit. Raises InputError where a part would be empty, or a pair
    lacks the field.
    """
    for name, value in (("holdout", share), ("audit", audit)):
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value}: give a share of the pairs from 0 (none) to below 1")
    members = _members(groups(pairs, by))
    order = [members[g] for g in np.random.default_rng(seed).permutation(len(members))] if share or audit else []
    held, rest = _draw(order, share * len(pairs))
    sealed, _ = _draw(rest, audit * len(pairs))
    training = sorted(set(range(len(pairs))) - set(held) - set(sealed))
    wanted = [(True, training), (share > 0, held), (audit > 0, sealed)]
    if not all(part for asked, part in wanted if asked):
        also = f" and audit={audit}" if audit else ""
        raise InputError(
            f"holdout={share}{also} of {len(pairs)} pairs in {len(members)} groups leaves one side empty: give more "
            "pairs, or holdout=0"
        )
    return Parts(training, sorted(held), sorted(sealed))


def split_ids(
    pairs: Sequence[PromptPair], share: float | int, seed: int, *, audit: float | int = 0, by: str | None = None
) -> tuple[frozenset[str], ...]:
    """The same as the pairs' ids, which still hold where pairs are refused afterwards."""
    parts = split_parts(pairs, share, seed, audit=audit, by=by)
    return tuple(frozenset(pairs[i].id for i in part) for part in parts)


def warn_of_repeats(pairs: Sequence[PromptPair], parts: Sequence[frozenset[str]]) -> None:
    """Warn where pairs with the same prompts, but for case and blanks, stand on different sides of the split."""
    first: dict[object, tuple[int, str]] = {}
    across: list[tuple[str, str]] = []
    for pair in pairs:
        side = next((i for i, part in enumerate(parts) if pair.id in part), None)
        if side is not None:
            seen, name = first.setdefault(_prompts(pair), (side, pair.id))
            across += [(name, pair.id)] if seen != side else []
    if across:
        few = ", ".join(" and ".join(couple) for couple in across[:2])
        warn(
            f"{len(across)} pairs have the prompts of a pair on another side of the split ({few}), so what is held out "
            "has been seen: give such pairs one split_group, or name a field that they share, as split_by='FIELD'",
            RepeatedPairs,
        )


def _prompts(pair: PromptPair) -> tuple[str, ...]:
    """Both prompts without what hardly sets them apart."""
    chats = [[message.get("content") for message in chat] for chat in (pair.messages, pair.counterfactual_messages)]
    texts = (pair.base, pair.counterfactual or "", *map(str, chats))
    return tuple(" ".join(text.split()).casefold() for text in texts)


def groups(pairs: Sequence[PromptPair], by: str | None = None) -> list[str]:
    """What each pair stays together with: its value of the field, or itself where it has none and none is asked for.

    Raises InputError where a pair lacks the field that was asked for.
    """
    if by is None:
        return [f"pair {i}" if p.split_group is None else f"group {p.split_group}" for i, p in enumerate(pairs)]
    values = values_of(pairs, by)
    missing = next((pair.id for pair, value in zip(pairs, values, strict=True) if not value), None)
    if missing is not None:
        raise InputError(f"split_by={by!r}: pair {missing} has no such field; name one that every pair has")
    return [f"group {value}" for value in values]


def _members(labels: Sequence[str]) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        found.setdefault(label, []).append(i)
    return list(found.values())


def _draw(order: list[list[int]], count: float) -> tuple[list[int], list[list[int]]]:
    """Groups from the front until there are so many pairs, and the groups that are left."""
    taken: list[int] = []
    for used, group in enumerate(order):
        if len(taken) >= count:
            return taken, order[used:]
        taken += group
    return taken, []
