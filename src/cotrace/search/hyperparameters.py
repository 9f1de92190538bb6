"""Checks of hyperparameters, and schedules of sizes."""

from __future__ import annotations

import math

from cotrace.errors import InputError


def at_least(search: str, name: str, value: float | int, least: float | int) -> None:
    """Raise InputError where a hyperparameter is below its least value or not a number."""
    if not (math.isfinite(value) and value >= least):
        raise InputError(f"{search}: {name} is {value}; give a number of at least {least:g}")


def positive(search: str, name: str, value: float | int) -> None:
    """Raise InputError where a hyperparameter is not above 0."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{search}: {name} is {value}; give a number above 0")


def within(search: str, name: str, value: float | int, low: float | int, high: float | int) -> None:
    """Raise InputError where a hyperparameter is outside an interval."""
    if not low <= value <= high:
        raise InputError(f"{search}: {name} is {value}; give a number from {low:g} to {high:g}")


def largest(search: str, max_size: int | None, n: int) -> int:
    """The largest k asked for, N where none is given. Raises InputError where it is above N."""
    if max_size is not None and max_size > n:
        raise InputError(f"{search}: max size {max_size} is outside 1..{n}; the space has {n} components")
    return max_size or n


def geometric(most: int, steps: int) -> list[int]:
    """At most ``steps`` sizes from 1 to ``most``, unit steps at the small end; ``most`` is the last."""
    if most <= steps:
        return list(range(1, most + 1))
    low, high = 1.0, float(most)
    while high - low > 1e-9:
        ratio = (low + high) / 2
        low, high = (ratio, high) if len(_grow(most, ratio)) > steps else (low, ratio)
    return _grow(most, high)


def _grow(most: int, ratio: float) -> list[int]:
    sizes, size = [], 1.0
    while round(size) < most:
        sizes.append(round(size))
        size = max(size + 1, size * ratio)
    return [*sizes, most]


EVERY = 256
"""Largest k up to which every size has a set, whatever N is."""
STOPS = 60
"""Sizes in the grid of a ranking that goes further."""


def nested_sizes(search: str, sizes: tuple[int, ...] | None, most: int) -> list[int]:
    """Sizes at which a ranking is evaluated: those given, or every one, or a grid where they are very many."""
    return geometric(most, most if most <= EVERY else STOPS) if sizes is None else given(search, sizes, most)


def gaps(grid: list[int], sizes: tuple[int, ...] | None, most: int) -> str:
    """A sentence on a grid of our own that leaves sizes out; empty where none is left out."""
    if sizes is not None or most <= EVERY:
        return ""
    return f"{len(grid)} of the sizes 1..{most} were looked at; with a max size of at most {EVERY} it is every one"


def given(search: str, sizes: tuple[int, ...], most: int) -> list[int]:
    """A grid of the user's own. Raises InputError for a size outside 1..most."""
    outside = [size for size in sizes if not 1 <= size <= most]
    if outside or not sizes:
        what = f"size {outside[0]} is" if outside else "no size is given; sizes are"
        raise InputError(f"{search}: {what} outside 1..{most}; give sizes from 1 to the max size")
    return sorted(set(sizes))
