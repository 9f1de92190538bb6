"""The tables that show a frontier."""

from __future__ import annotations

from cotrace.results.frontier import Frontier, ranges
from cotrace.results.selection import Selection
from cotrace.results.table import Table
from cotrace.statistics import interval_text

ADDED = "components added"
SHOWN_ROWS = 30
"""Sizes that a notebook shows of a frontier."""


def number(value: float | None, signed: bool = True) -> str:
    """A figure with four significant digits; empty where it was not computed."""
    if value is None:
        return ""
    return f"{value:+.4g}" if signed else f"{value:.4g}"


def frontier_table(frontier: Frontier, most: int | None = None) -> Table:
    """One row per k: effect, held-out effect, interval, cost, and the components that came and went."""
    shown = frontier.selections if most is None else frontier.selections[:most]
    before: Selection | None = None
    rows = []
    for selection in shown:
        *figures, changed = _row(selection, before)
        rows.append((*figures, *_beside(frontier, selection), changed))
        before = selection
    sides = [head for bound in frontier.bounds for head in (bound.name, f"{bound.name}, held out")]
    columns = ("k", "effect", "held out", "interval", "p", "forward-eq.", "level", "level, held out", *sides, ADDED)
    title = f"{frontier.search} ({frontier.mode}): {frontier.metric} on {frontier.task}, {frontier.direction}"
    return _without_empty(Table(title + _gaps(frontier), columns, rows, frozenset({len(columns) - 1})))


def _beside(frontier: Frontier, selection: Selection) -> list[str]:
    """The reported levels, and each side value with its held-out one; ! marks a held-out value out of bounds."""
    cells = [_hard(frontier, selection, heldout) for heldout in (False, True)]
    for i, bound in enumerate(frontier.bounds):
        seen, unseen = (None if side is None else side[i] for side in (selection.side, selection.side_heldout))
        broken = unseen is not None and bound.violation(unseen) > 0
        cells += [number(seen), number(unseen) + (" !" if broken else "")]
    return cells


def _hard(frontier: Frontier, selection: Selection, heldout: bool) -> str:
    """The level before and under the selection, ! where the soft form goes the other way."""
    found = frontier.hard(selection, heldout=heldout)
    if found is None:
        return number(selection.reported_heldout if heldout else selection.reported, signed=False)
    return found.words + (" !" if found.disagrees else "")


def _gaps(frontier: Frontier) -> str:
    """What is said of sizes without a feasible set."""
    sizes = ranges(list(frontier.infeasible_sizes))
    return f"; no set found that keeps the constraints at k = {sizes}" if frontier.infeasible_sizes else ""


def _row(selection: Selection, before: Selection | None) -> tuple[str, ...]:
    interval = interval_text(selection.interval)
    return (
        str(selection.k),
        number(selection.effect),
        number(selection.effect_heldout),
        interval,
        number(selection.p_value, signed=False),
        number(selection.forward_equivalents, signed=False),
        changes(selection, before),
    )


def changes(selection: Selection, before: Selection | None) -> str:
    """Names that came, and with a minus those that went, since the selection before."""
    was = set(before.members) if before else set()
    now = set(selection.members)
    came = [str(member) for member in selection.members if member not in was]
    went = [f"-{member}" for member in (before.members if before else ()) if member not in now]
    return _shorten(came + went)


def _shorten(names: list[str], most: int = 12) -> str:
    shown = " ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _without_empty(table: Table) -> Table:
    """The table without the columns in which no row has a value."""
    kept = [i for i in range(len(table.columns)) if any(row[i] for row in table.rows)]
    return Table(
        table.title,
        [table.columns[i] for i in kept],
        [[row[i] for i in kept] for row in table.rows],
        frozenset(kept.index(i) for i in table.left if i in kept),
    )


def selection_facts(selection: Selection) -> dict[str, str]:
    """Name -> value of what is known of a selection."""
    interval = interval_text(selection.interval, "+.4g")
    return {
        "components": _shorten(selection.components, most=40),
        "effect": number(selection.effect),
        "effect, held out": number(selection.effect_heldout),
        "interval": interval,
        "p": number(selection.p_value, signed=False),
    }
