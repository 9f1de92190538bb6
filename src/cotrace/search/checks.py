"""Checks of hyperparameters: one line that names the thing, the reason and the remedy."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from cotrace.arguments import check_fields, check_seed, listed
from cotrace.errors import InputError, unknown
from cotrace.objectives import TRANSFORMS


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


def settings(search: Any) -> None:
    """Raise InputError where a setting is of another kind than declared, or one that searches share is out of range."""
    check_fields(search.name, search)
    for field in fields(search):  # an array has no truth value, and a range or a set is no JSON
        object.__setattr__(search, field.name, listed(getattr(search, field.name)))
    check_seed(search.name, getattr(search, "seed", 0))
    max_size, transformation = getattr(search, "max_size", None), getattr(search, "transformation", None)
    if max_size is not None and max_size < 1:
        raise InputError(f"{search.name}: max size {max_size} is outside 1..N; ask for at least 1 component")
    if transformation is not None and transformation not in TRANSFORMS:
        raise unknown("transformation", transformation, TRANSFORMS)


def largest(search: str, max_size: int | None, n: int) -> int:
    """The largest k asked for, N where none is given. Raises InputError where it is above N."""
    if max_size is not None and max_size > n:
        raise InputError(f"{search}: max size {max_size} is outside 1..{n}; the space has {n} components")
    return max_size or n
