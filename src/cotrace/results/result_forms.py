"""Forms: the fields of a result read from a file, each of the kind that it should be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, get_args

from cotrace.components import Direction, Mode

if TYPE_CHECKING:
    pass


def number_in(data: Mapping[str, Any], name: str) -> float | None:
    """The number in a field; None where it was not computed. Raises TypeError."""
    value: float | None = _number(data.get(name), name)
    return value


def numbers_in(data: Mapping[str, Any], name: str, count: int | None = None) -> tuple[float, ...] | None:
    """The numbers in a field, so many of them; None where they were not computed. Raises TypeError."""
    values = data.get(name)
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or (count is not None and len(values) != count) or None in values:
        raise TypeError(f"{name} is {values!r:.60}, and needs {'' if count is None else f'{count} '}numbers")
    return tuple(_number(value, name) for value in values)


def names_in(data: Mapping[str, Any], name: str) -> list[str]:
    """The texts in a field. Raises KeyError, TypeError."""
    values = data[name]
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} is {values!r:.60}, and needs a list of names")
    return list(values)


def check_texts(data: Mapping[str, Any], *names: str) -> None:
    """Raise TypeError where one of these fields holds no text."""
    for name in names:
        if not isinstance(data.get(name, ""), str):
            raise TypeError(f"{name} is {data[name]!r:.60}, and needs a text")


def check_among(data: Mapping[str, Any], name: str, options: Collection[str]) -> None:
    """Raise ValueError where a field holds none of these."""
    if data[name] not in options:
        raise ValueError(f"{name} is {data[name]!r:.60}, and is one of {', '.join(options)}")


def _number(value: Any, name: str) -> Any:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{name} is {value!r:.60}, and needs a number")


NUMBERS = ("reported_before", "reported_before_heldout", "target")


TUPLES = ("selections", "bounds", "infeasible_sizes", "by_cost")


ORIGIN = ("model", "donors", "align", "positions", "split")
"""Fields that say where a frontier comes from; files of earlier versions do not have them."""


OLD_COLUMNS = (
    "search",
    "k",
    "effect",
    "effect_heldout",
    "ci_low",
    "ci_high",
    "p_value",
    "forward_equivalents",
    "components",
)


REPORTED = ("reported_before", "reported", "reported_before_heldout", "reported_heldout")
"""Further columns: the metric as people read it, before and under the mask, where the search followed a soft form."""


COLUMNS = (*OLD_COLUMNS, *REPORTED)


def check_form(data: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where a field that stays as it is holds another kind of value."""
    check_texts(data, "search", "metric", "task", "summary", *ORIGIN)
    check_among(data, "mode", get_args(Mode))
    check_among(data, "direction", get_args(Direction))
    for name in ("forward_equivalents", "full_effect", "full_effect_heldout", "elapsed_s", *NUMBERS):
        number_in(data, name)
    if data["forward_equivalents"] is None or data["full_effect"] is None:
        raise TypeError("forward_equivalents and full_effect need numbers")
    for name in ("full_is_clear", "full_is_clear_heldout"):
        if not isinstance(data.get(name, True), bool):
            raise TypeError(f"{name} is {data[name]!r}, not true or false")
    weights = data.get("cost_weights", {})
    numbers_in({"cost_weights": list(weights.values())}, "cost_weights")
