"""What figures say in words: mode, metric and model level are named in every one of them."""

from __future__ import annotations

from textwrap import wrap

from cotrace.results import Frontier


def quantity(frontier: Frontier) -> str:
    """The label of the effect's axis."""
    if frontier.mode == "keep":
        return f"faithfulness of {frontier.metric} (keep)"
    return f"effect: change of {frontier.metric} (swap)"


def heading(frontier: Frontier) -> str:
    """Task, mode and direction."""
    verb = (
        "the chosen take the donor's value"
        if frontier.mode == "swap"
        else "the chosen keep running, all others swapped"
    )
    return f"{frontier.task}, mode {frontier.mode} ({verb}), {frontier.direction}"


def level(frontier: Frontier) -> str:
    """What the model level is in this mode."""
    return "model level: all swapped" if frontier.mode == "swap" else "model level: all kept"


def figure_of(value: float | None) -> str:
    """A signed figure with three significant digits."""
    return "not computed" if value is None else f"{value:+.3g}"


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """The text in lines that fit so many inches at a font's size in points."""
    return wrap(text, int(inches * 130 / size))
