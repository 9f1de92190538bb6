"""Controls: random sets of the same size and composition, as nested chains, and what they say about each size.

A chain orders the units of every site and layer at random; at each size it takes from each order as many as the
selection has there. So chains depend on one another over the sizes as a random selection would, which is what max-T
needs to adjust for them.
"""

from __future__ import annotations

from math import comb, prod

import numpy as np
from jaxtyping import Bool, Int

from cotrace.components import ComponentSpace

DISTINCT = 200
"""Fewest distinct sets of one composition; below it the composition is kept per site only."""


def composition(space: ComponentSpace, chosen: Bool[np.ndarray, "size n"], row: int) -> tuple[str, list[int]]:
    """What the controls share with the selections, in words, and the block of each component.

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
) -> Bool[np.ndarray, "chain size n"]:
    """Random sets, one for each chain and size, with as many members in each block as the selection of that size."""
    of = np.array(blocks)
    taken = np.stack([chosen[:, of == block].sum(1) for block in range(of.max() + 1)], 1)
    draw = np.random.default_rng(seed)
    return np.stack([_ranks(of, draw)[None] < taken[:, of] for _ in range(count)])


def _ranks(of: Int[np.ndarray, "n"], draw: np.random.Generator) -> Int[np.ndarray, "n"]:
    """A random rank of each component in its block, from 0."""
    rank = np.empty(len(of), np.int64)
    for block in range(of.max() + 1):
        members = np.flatnonzero(of == block)
        rank[members] = draw.permutation(len(members))
    return rank
