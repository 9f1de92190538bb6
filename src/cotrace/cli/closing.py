"""What is shown at the end: the frontier of one search, or several side by side, and the selection that is enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cotrace.cli.chart import Chart
from cotrace.report.words import figure_of
from cotrace.results import Frontier, Selection, Table
from cotrace.results.tables import number
from cotrace.runs.results import SHARE, enough

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
        f"{_names(chosen.components)}{hard_words(frontier, chosen)}"
    )


def hard_words(frontier: Frontier, chosen: Selection) -> str:
    """The level that people read beside the soft effect, and where the two go different ways; empty without one."""
    parts = [(frontier.hard(chosen, heldout=unseen), w) for unseen, w in ((True, "held out"), (False, "searched"))]
    told = [f"{found.words} ({where})" for found, where in parts if found is not None]
    caveats = [f". On {where} pairs: {found.caveat}" for found, where in parts if found is not None and found.caveat]
    return (f". As people read it: {', '.join(told)}" if told else "") + "".join(caveats)


def _share(frontier: Frontier, chosen: Selection) -> str:
    return "all" if chosen == frontier.best() else f"at least {SHARE:.0%}"


def _names(names: Sequence[str], most: int = 30) -> str:
    return " ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
