"""The one style of all figures: sizes, fonts and the Okabe-Ito colours, which colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, YELLOW, BLACK = "#56B4E9", "#E69F00", "#F0E442", "#000000"
INK, MUTED, FAINT, PAPER = "#222222", "#707070", "#E6E6E6", "#FFFFFF"

COLOURS: Mapping[str, str] = {
    "pursuit": BLUE,
    "pgbct": ORANGE,
    "greedy": GREEN,
    "topk": PINK,
    "random": MUTED,
}
OTHERS = (SKY, AMBER, BLACK)
MARKERS: Mapping[str, str] = {"pursuit": "o", "pgbct": "D", "greedy": "s", "topk": "^", "random": "x"}

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "cotrace",
    "pdf.fonttype": 42,
}


COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: one column of a paper, and both."""
SMALL: dict[Any, Any] = {"font.size": 7, "axes.titlesize": 8, "axes.labelsize": 7, "legend.fontsize": 6.5}
"""What changes where a figure is to stand in one column."""


def styled(width: float | int = PAGE) -> AbstractContextManager[None]:
    """Context (and decorator) in which figures have the style; afterwards the user's own is back."""
    return rc_context(STYLE | (SMALL if is_narrow(width) else {}))


def is_narrow(width: float | int) -> bool:
    """Whether panels stand below each other."""
    return width < 5


def titled(figure: Figure, text: str, width: float | int) -> None:
    """The figure's title at its left edge, in lines that fit."""
    size = 8 if is_narrow(width) else 10
    lines = [part for line in text.splitlines() for part in wrap(line, int(width * 130 / size))]
    figure.suptitle("\n".join(lines), x=0.012, ha="left", fontsize=size, color=INK)


def colour(search: str, index: int = 0) -> str:
    """The colour of a search; those without one of their own take the others in turn."""
    return COLOURS.get(search, OTHERS[index % len(OTHERS)])


def subtitle(axes: Axes, text: str) -> None:
    """A muted line between the title and the axes."""
    axes.text(0, 1.015, text, transform=axes.transAxes, color=MUTED, fontsize=8, va="bottom")
