"""Size schedules: at which sizes a search stops on its way from nothing to everything."""

from __future__ import annotations

from cotrace.errors import InputError


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
