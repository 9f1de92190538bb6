"""Forms: the fields of a result read from a file, each of the kind that it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from cotrace.components import Direction, Mode


def number_in(data: Mapping[str, Any], name: str) -> float | None:
    """The number in a field; None where it was not computed. Raises TypeError."""
    value = data.get(name)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{name} is {value!r:.60}, and needs a number")


def numbers_in(data: Mapping[str, Any], name: str, count: int | None = None) -> tuple[float, ...] | None:
    """The numbers in a field, so many of them; None where they were not computed. Raises TypeError."""
    values = data.get(name)
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or (count is not None and len(values) != count) or None in values:
        raise TypeError(f"{name} is {values!r:.60}, and needs {'' if count is None else f'{count} '}numbers")
    return tuple(number for value in values if (number := number_in({name: value}, name)) is not None)


def names_in(data: Mapping[str, Any], name: str) -> list[str]:
    """The texts in a field. Raises KeyError, TypeError."""
    values = data[name]
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} is {values!r:.60}, and needs a list of names")
    return list(values)


TUPLES = ("selections", "bounds", "infeasible_sizes", "by_cost")
ORIGIN = ("model", "donors", "align", "positions", "split")
"""Fields that say where a frontier comes from; files of earlier versions do not have them."""
REPORTED = ("reported_before", "reported", "reported_before_heldout", "reported_heldout")
"""Further columns: the metric as people read it, before and under the mask, where the search followed a soft form."""
OLD_COLUMNS = (
    *("search", "k", "effect", "effect_heldout", "ci_low", "ci_high", "p_value", "forward_equivalents", "components"),
)
COLUMNS = (*OLD_COLUMNS, *REPORTED)
NEEDED = ("forward_equivalents", "full_effect")
NUMBERS = ("full_effect_heldout", "elapsed_s", "reported_before", "reported_before_heldout", "target")


def check_form(data: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where a field that stays as it is holds another kind of value."""
    for name in ("search", "metric", "task", "summary", *ORIGIN):
        if not isinstance(data.get(name, ""), str):
            raise TypeError(f"{name} is {data[name]!r:.60}, and needs a text")
    for name, options in (("mode", get_args(Mode)), ("direction", get_args(Direction))):
        if data[name] not in options:
            raise ValueError(f"{name} is {data[name]!r:.60}, and is one of {', '.join(options)}")
    for name in (*NEEDED, *NUMBERS):
        number_in(data, name)
    if None in (data[name] for name in NEEDED):
        raise TypeError(f"{' and '.join(NEEDED)} need numbers")
    for name in ("full_is_clear", "full_is_clear_heldout"):
        if not isinstance(data.get(name, True), bool):
            raise TypeError(f"{name} is {data[name]!r}, not true or false")
    numbers_in({"cost_weights": list(data.get("cost_weights", {}).values())}, "cost_weights")
