"""Two runs' answers side by side: how far the sets overlap, and what each does to the pairs that both have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from cotrace.errors import InputError
from cotrace.json_file import parse_json, read_text
from cotrace.results import Frontier, Selection, Table
from cotrace.results.tables import number
from cotrace.runs.evidence import with_effects
from cotrace.runs.manifest import holds, remedy
from cotrace.runs.results import enough
from cotrace.runs.stored import StoredRun
from cotrace.statistics import Interval, Units, interval_text, mean_interval

EXAMPLES = "examples.json"
PARTS = ("heldout", "training")


@dataclass(frozen=True, kw_only=True)
class PairedEffects:
    """The answer of one search in both runs: the smallest set with 90 % of the best effect."""

    search: str
    k_one: int
    k_other: int
    shared: tuple[str, ...]
    """Components in both sets."""
    only_one: tuple[str, ...]
    only_other: tuple[str, ...]
    overlap: float
    """Members in both as a share of the members of either (Jaccard)."""
    overlap_by_chance: float | None
    """The same expected of random sets of these sizes; None where the spaces differ."""
    part: str | None = None
    """Which pairs the effects are of: heldout, else training; None where both runs kept effects of no pair."""
    pairs: int = 0
    effect_one: float | None = None
    effect_other: float | None = None
    difference: float | None = None
    """Mean of second less first, pair by pair."""
    difference_interval: Interval | None = None


def paired(one: StoredRun, other: StoredRun) -> Iterator[PairedEffects]:
    """For every search that both runs have. Raises DamagedRun, InputError for a file that is not what a run writes."""
    theirs = {frontier.search: frontier for frontier in other.frontiers}
    for frontier in one.frontiers:
        if frontier.search in theirs and frontier.mode == theirs[frontier.search].mode:
            yield _paired((one.path, frontier), (other.path, theirs[frontier.search]))


def _paired(one: tuple[Path, Frontier], other: tuple[Path, Frontier]) -> PairedEffects:
    (_, first), (_, second) = one, other
    a, b = enough(first), enough(second)
    mine, yours = set(a.components), set(b.components)
    effects = _both(one, a, other, b) if first.metric == second.metric else None
    same = first.space.components == second.space.components
    return PairedEffects(
        search=first.search,
        k_one=a.k,
        k_other=b.k,
        shared=tuple(name for name in a.components if name in yours),
        only_one=tuple(name for name in a.components if name not in yours),
        only_other=tuple(name for name in b.components if name not in mine),
        overlap=len(mine & yours) / len(mine | yours),
        overlap_by_chance=_chance(a.k, b.k, len(first.space)) if same else None,
        **({} if effects is None else effects),
    )


def _chance(k: int, other: int, n: int) -> float:
    """Members that random sets share, k * other / n on average, as a share of those of either."""
    shared = k * other / n
    return shared / (k + other - shared)


def _both(
    one: tuple[Path, Frontier], a: Selection, other: tuple[Path, Frontier], b: Selection
) -> dict[str, Any] | None:
    """Effects of both sets on the pairs that both runs have in the same part, where they kept them."""
    for part in PARTS:
        mine, yours = _effects(*one, a, part), _effects(*other, b, part)
        ids = [name for name in mine if name in yours]
        if ids:
            first, second = (np.array([each[name] for name in ids]) for each in (mine, yours))
            return {
                "part": part,
                "pairs": len(ids),
                "effect_one": float(first.mean()),
                "effect_other": float(second.mean()),
                "difference": float((second - first).mean()),
                "difference_interval": mean_interval(second - first, Units.made(len(ids))),
            }
    return None


def _effects(folder: Path, frontier: Frontier, selection: Selection, part: str) -> Mapping[str, float]:
    """Pair -> effect of a set; empty where the run did not keep them."""
    found = with_effects(folder, frontier)
    table = found.effects_heldout if part == "heldout" else found.effects
    row = None if table is None else table.find(np.packbits(_chosen(frontier, selection)).tobytes())
    ids = _ids(folder, part)
    return {} if row is None or len(ids) != len(row) else dict(zip(ids, map(float, row), strict=True))


def _chosen(frontier: Frontier, selection: Selection) -> Bool[np.ndarray, "n"]:
    return np.asarray(frontier.space.indicator(selection.members))


def _ids(folder: Path, part: str) -> list[str]:
    """Ids of the pairs of a part, in the order of their effects."""
    if not holds(folder, EXAMPLES):
        return []
    path = folder / EXAMPLES
    try:
        return [str(one["id"]) for one in parse_json(read_text(path), str(path))[part]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not what a run writes ({error}); {remedy(folder)}") from None


def paired_table(rows: list[PairedEffects]) -> Table:
    """One row for each search."""
    heads = ("search", "k", "shared", "overlap", "by chance", "pairs", "effects", "second less first", "interval")
    return Table(
        "The answers of both (smallest set with 90 % of the best effect)",
        heads,
        [_cells(r) for r in rows],
        frozenset({0}),
    )


def _cells(one: PairedEffects) -> tuple[str, ...]:
    effects = "" if one.part is None else f"{number(one.effect_one)} / {number(one.effect_other)}"
    return (
        one.search,
        f"{one.k_one} / {one.k_other}",
        str(len(one.shared)),
        f"{one.overlap:.0%}",
        "" if one.overlap_by_chance is None else f"{one.overlap_by_chance:.0%}",
        "" if one.part is None else f"{one.pairs} {'held out' if one.part == 'heldout' else 'searched'}",
        effects,
        number(one.difference),
        interval_text(one.difference_interval),
    )
