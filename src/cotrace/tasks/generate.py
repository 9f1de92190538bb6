"""What generated tasks share: checked size and seed, and examples that differ from each other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from random import Random
from typing import TypeVar

from cotrace.arguments import check_seed
from cotrace.errors import InputError

Example = TypeVar("Example", bound=Hashable)
TRIES = 1000
"""How often in a row a repeated example is drawn anew before the task is said to have no more."""


def distinct(task: str, size: int, seed: int, draw: Callable[[Random, int], Example]) -> list[Example]:
    """``size`` different examples, the i-th drawn by ``draw(random, i)``, which may balance by i. Same seed, same list.

    Raises InputError for a size below 1, and where ``draw`` keeps giving examples that are there already.
    """
    if size < 1:
        raise InputError(f"task {task}: size is {size}, must be at least 1")
    check_seed(f"task {task}", seed)
    random, found = Random(seed), dict[Example, None]()
    for i in range(size):
        for _ in range(TRIES):
            example = draw(random, i)
            if example not in found:
                break
        else:
            raise InputError(f"task {task}: no more than {i} different pairs can be generated; ask for a smaller size")
        found[example] = None
    return list(found)
