"""The frontier drawn in the terminal: one line of braille or plain marks for each curve, as wide as the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text
from uniplot import plot_to_string

from cotrace.results import Frontier

HEIGHT, MOST_WIDTH, LEAST_WIDTH = 12, 100, 30
MARGIN = 14
"""Columns beside the plot: its frame and the numbers on the right."""
COLOURS = ("blue", "green", "red", "magenta", "cyan", "yellow")
MARKS = ("+", "o", "-", "x", "*", "#")


@dataclass(frozen=True)
class Curve:
    """Effects at sizes, under a name."""

    name: str
    sizes: Sequence[int]
    effects: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Effect against k. Of one search: searched, held out and the model level; of several: their held-out effects."""

    frontiers: Sequence[Frontier]

    @property
    def curves(self) -> list[Curve]:
        """The curves, without those that were not computed."""
        first = self.frontiers[0]
        if len(self.frontiers) == 1:
            found = [_curve("training pairs", first, heldout=False), _curve("held out", first, heldout=True)]
        else:
            found = [_curve(one.search, one, heldout=self.heldout) for one in self.frontiers]
        return [curve for curve in [*found, self._level()] if curve.sizes]

    @property
    def heldout(self) -> bool:
        """Whether the curves of several searches are those on held-out pairs."""
        return all(selection.effect_heldout is not None for one in self.frontiers for selection in one)

    def _level(self) -> Curve:
        """The effect of everything together, as a line across."""
        first = self.frontiers[0]
        shown = self.heldout and len(self.frontiers) > 1 and first.full_effect_heldout is not None
        level = first.full_effect_heldout if shown else first.full_effect
        ends = [min(one.sizes[0] for one in self.frontiers), max(one.sizes[-1] for one in self.frontiers)]
        name = "all swapped" if first.mode == "swap" else "all kept"
        return Curve(name, ends, [level or 0.0] * 2)

    @property
    def title(self) -> str:
        """What is drawn."""
        pairs = "" if len(self.frontiers) == 1 else (", held-out pairs" if self.heldout else ", training pairs")
        return f"effect on {self.frontiers[0].metric} (up) by number of components k (across){pairs}"

    def text(self, width: int, *, colour: bool) -> str:
        """The drawing, at most ``width`` columns wide; with colours it holds terminal codes."""
        curves = self.curves
        drawn: str = plot_to_string(
            xs=[list(curve.sizes) for curve in curves],
            ys=[list(curve.effects) for curve in curves],
            lines=[True] * len(curves),
            legend_labels=[curve.name for curve in curves],
            width=max(LEAST_WIDTH, min(width - MARGIN, MOST_WIDTH)),
            height=HEIGHT,
            character_set="braille" if colour else "ascii",
            color=[COLOURS[i % len(COLOURS)] for i in range(len(curves))] if colour else False,
            force_ascii_characters=list(MARKS),
            y_gridlines=[0.0],
            x_gridlines=[],
            line_length_hard_cap=width,
        )
        return drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Drawn where there are two sizes to join and the screen shows the frame's signs."""
        if console.encoding.lower().startswith("utf") and max(len(one) for one in self.frontiers) > 1:
            yield Text(self.title)
            colour = console.is_terminal and not console.no_color and console.color_system is not None
            yield from self._lines(self.text(options.max_width, colour=colour))

    def _lines(self, drawn: str) -> Iterator[Text]:
        for line in drawn.splitlines():
            yield Text.from_ansi(line, no_wrap=True, overflow="crop")


def _curve(name: str, frontier: Frontier, *, heldout: bool) -> Curve:
    points = [(one.k, one.effect_heldout if heldout else one.effect) for one in frontier]
    known = [(k, effect) for k, effect in points if effect is not None]
    return Curve(name, [k for k, _ in known], [effect for _, effect in known])
