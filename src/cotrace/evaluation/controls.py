"""Controls: random sets of the same size and composition, as nested chains, and what they say about each size.

A chain orders the units of every site and layer at random; at each size it takes from each order as many as the
selection has there. So chains depend on one another over the sizes as a random selection would, which is what max-T
needs to adjust for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb, prod

import numpy as np
from jaxtyping import Bool, Int

from cotrace.components import ComponentSpace
from cotrace.problem.protocol import MASK_ELEMENTS

DISTINCT = 200
"""Fewest distinct sets of one composition; below it the composition is kept per site only."""


def composition(space: ComponentSpace, chosen: Bool[np.ndarray, "size n"], row: int) -> tuple[str, list[int]]:
    """Return in words what the controls share with the selections, and the block of each component.

    Per site and layer, unless that leaves the selection of this row fewer than ``DISTINCT`` sets; then per site.
    """
    fine = _blocks([(component.site, component.layer, component.role) for component in space])
    if distinct(fine, chosen[row]) >= DISTINCT:
        return "site and layer", fine
    return "site", _blocks([(component.site, component.role) for component in space])


def _blocks(labels: list[tuple[object, ...]]) -> list[int]:
    number: dict[tuple[object, ...], int] = {}
    return [number.setdefault(label, len(number)) for label in labels]


def distinct(blocks: list[int], chosen: Bool[np.ndarray, "n"]) -> int:
    sizes, taken = np.bincount(blocks), np.bincount(blocks, chosen)
    return prod(comb(int(size), int(some)) for size, some in zip(sizes, taken, strict=True))


def chains(
    blocks: list[int], chosen: Bool[np.ndarray, "size n"], count: int, seed: int
) -> Iterator[Bool[np.ndarray, "chain size n"]]:
    """Random sets, one for each chain and size, with as many members in each block as the selection of that size.

    As many chains at a time as one batch of masks holds.
    """
    of = np.array(blocks)
    members = [np.flatnonzero(of == block) for block in range(of.max() + 1)]
    taken = np.stack([chosen[:, some].sum(1) for some in members], 1)
    draw = np.random.default_rng(seed)
    batch = max(1, MASK_ELEMENTS // chosen.size)
    for start in range(0, count, batch):
        yield np.stack([_chain(of, members, taken, draw) for _ in range(min(batch, count - start))])


def _chain(
    of: Int[np.ndarray, "n"],
    members: Sequence[Int[np.ndarray, "_"]],
    taken: Int[np.ndarray, "size block"],
    draw: np.random.Generator,
) -> Bool[np.ndarray, "size n"]:
    """One set of each size: the first of each block in a random order of it."""
    rank = np.empty(len(of), np.int64)
    for some in members:
        rank[some] = draw.permutation(len(some))
    return np.stack([rank < counts[of] for counts in taken])
