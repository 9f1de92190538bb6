"""Cross-fitting: every pair is judged by sets that were searched without it (Chernozhukov et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from cotrace.errors import InputError
from cotrace.evaluation.stability import jaccard
from cotrace.evaluation.views import Part, folds
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier, Table
from cotrace.results.tables import number
from cotrace.search.driver import Search, solve
from cotrace.statistics import Interval, Units, interval_text


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """The effect of searching for one size, over all pairs, each judged out of sample."""

    k: int
    effect: float
    interval: Interval | None
    """Over pairs or groups; the folds share most of their searched pairs, which it does not count."""
    jaccard: float
    """Mean Jaccard index between the folds' sets."""


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """One row for each size that every fold found."""

    folds: int
    search: str
    pairs: int
    rows: tuple[CrossFitted, ...]
    forward_equivalents: float

    def table(self) -> Table:
        """The rows for people."""
        heads = ("k", "effect", "interval", "Jaccard between folds")
        rows = [
            (str(r.k), number(r.effect), interval_text(r.interval), number(r.jaccard, signed=False)) for r in self.rows
        ]
        return Table(f"{self.search}: {self.folds}-fold cross-fitting over {self.pairs} pairs", heads, rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        from dataclasses import asdict

        return asdict(self)

    def __str__(self) -> str:
        return str(self.table())


def cross_fit(
    problem: Problem,
    search: Search,
    *,
    count: int = 5,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> CrossFit:
    """Search without each fold in turn and judge on it. Costs (folds - 1) searches, and the sets on each fold.

    Raises InputError for fewer than 2 folds, or fewer groups of pairs than folds.
    """
    units = Units.of(problem)
    if count < 2 or units.count < count:
        unit = "groups of pairs" if units.clustered else "pairs"
        raise InputError(
            f"{count} folds: give at least 2, and at least as many {unit} as folds; there are {units.count}"
        )
    before, parts = problem.cost.forward_equivalents, []
    for number_, (searched, unseen) in enumerate(folds(problem, count, seed)):
        if progress is not None:
            progress("fold", number_, count)
        part = Part(problem, searched, unseen)
        parts.append((unseen, part, solve(search, part)))
    sizes = sorted(set.intersection(*(set(frontier.sizes) for _, _, frontier in parts)))
    whole = Evaluator(problem)
    rows = tuple(_row(whole, parts, k) for k in sizes)
    spent = problem.cost.forward_equivalents - before
    return CrossFit(folds=count, search=search.name, pairs=problem.size, rows=rows, forward_equivalents=spent)


def _row(whole: Evaluator, parts: list[tuple[list[int], Part, Frontier]], k: int) -> CrossFitted:
    effects = np.empty(whole.problem.size)
    for unseen, part, frontier in parts:
        assert part.heldout is not None
        judge = Evaluator(part.heldout, frontier.effects_heldout)
        effects[unseen] = judge.effects(judge.rows([frontier.at(k).members]))[0]
    sets = [frontier.at(k).members for _, _, frontier in parts]
    return CrossFitted(
        k=k,
        effect=whole.units.mean(effects),
        interval=whole.interval_of_effects(effects),
        jaccard=float(np.mean([jaccard(a, b) for a, b in combinations(sets, 2)])),
    )
