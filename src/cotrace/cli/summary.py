"""The summary at the end of a run, with the frontier drawn in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.text import Text
from uniplot import plot_to_string

from cotrace.report.page.inputs import figure_of
from cotrace.results import Frontier, Selection, Table
from cotrace.results.table import number, shorten
from cotrace.runs.result_files import SHARE, enough

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
        """Title of the drawing."""
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


MOST_ROWS = 40


def closing(frontiers: Sequence[Frontier]) -> Iterator[Any]:
    """Tables and sentences, in order."""
    if len(frontiers) == 1:
        yield frontiers[0].table(MOST_ROWS)
        if len(frontiers[0]) > MOST_ROWS:
            yield f"{len(frontiers[0]) - MOST_ROWS} more sizes are in frontier.csv"
    else:
        yield comparison(frontiers, heldout=False)
        if any(selection.effect_heldout is not None for one in frontiers for selection in one):
            yield comparison(frontiers, heldout=True)
        if any(one.hard(selection) for one in frontiers for selection in one):
            yield comparison(frontiers, heldout=unseen_levels(frontiers), hard=True)
    yield Chart(frontiers)
    yield verdict(frontiers[0])


def unseen_levels(frontiers: Sequence[Frontier]) -> bool:
    """Whether the metric as people read it is known on held-out pairs."""
    return any(one.hard(selection, heldout=True) for one in frontiers for selection in one)


def comparison(frontiers: Sequence[Frontier], heldout: bool, hard: bool = False) -> Table:
    """Searches as rows, sizes as columns: the effect of the best set with at most k components.

    ``hard``: the level that people read before and under it, ! where the soft form goes the other way.
    """
    sizes = columns(frontiers)
    heads = ("search", "forward-eq.", "seconds", *(f"k = {k}" for k in sizes))
    rows = [(*_cost(one), *(_cell(one, k, heldout, hard) for k in sizes)) for one in frontiers]
    return Table(_title(frontiers[0], heldout, hard), heads, rows, frozenset({0}))


def _title(one: Frontier, heldout: bool, hard: bool) -> str:
    pairs = "the same sets on held-out pairs" if heldout else "best set with at most k components, training pairs"
    if hard:
        where = "held-out pairs" if heldout else "training pairs"
        return f"{one.metric} on {one.task} as people read it, {where}: before -> under the same sets"
    value = one.full_effect_heldout if heldout else one.full_effect
    everything = "all swapped" if one.mode == "swap" else "all kept"
    return f"{one.metric} on {one.task}, mode {one.mode}, {one.direction}\n{pairs}; {everything} {number(value)}"


def columns(frontiers: Sequence[Frontier]) -> list[int]:
    """Powers of two up to the largest size, and that size."""
    largest = max(one.sizes[-1] for one in frontiers)
    return [2**power for power in range(largest.bit_length()) if 2**power < largest] + [largest]


def _cost(one: Frontier) -> tuple[str, str, str]:
    return one.search, f"{one.forward_equivalents:,.0f}", "" if one.elapsed_s is None else f"{one.elapsed_s:.1f}"


def _cell(one: Frontier, k: int, heldout: bool, hard: bool) -> str:
    if one.sizes[0] > k:
        return ""
    best = one.best(k)
    if hard:
        found = one.hard(best, heldout=heldout)
        return "" if found is None else found.words + (" !" if found.disagrees else "")
    return number(best.effect_heldout if heldout else best.effect)


def verdict(frontier: Frontier) -> str:
    """The smallest selection that is enough, in words."""
    chosen = enough(frontier)
    doubt = "" if frontier.full_is_clear else "No effect of swapping everything is shown. "
    if frontier.sign * (chosen.effect or 0.0) <= 0:
        return f"{doubt}{frontier.search}: no set that was found would {frontier.direction} {frontier.metric}"
    share, heldout = _share(frontier, chosen), ""
    if chosen.effect_heldout is not None:
        heldout = f"; held out {figure_of(chosen.effect_heldout)} of {figure_of(frontier.full_effect_heldout)}"
    return (
        f"{doubt}{frontier.search}: {chosen.k} of {len(frontier.space)} components have {share} of the best effect: "
        f"{figure_of(chosen.effect)}, where all together have {figure_of(frontier.full_effect)}{heldout}: "
        f"{shorten(chosen.components, 30)}{hard_words(frontier, chosen)}"
    )


def hard_words(frontier: Frontier, chosen: Selection) -> str:
    """The level that people read beside the soft effect, and where the two go different ways; empty without one."""
    parts = [(frontier.hard(chosen, heldout=unseen), w) for unseen, w in ((True, "held out"), (False, "searched"))]
    told = [f"{found.words} ({where})" for found, where in parts if found is not None]
    caveats = [f". On {where} pairs: {found.caveat}" for found, where in parts if found is not None and found.caveat]
    return (f". As people read it: {', '.join(told)}" if told else "") + "".join(caveats)


def _share(frontier: Frontier, chosen: Selection) -> str:
    return "all" if chosen == frontier.best() else f"at least {SHARE:.0%}"
