"""Stability: does the same set come back, is there another as good, and what does it do on pairs left out?

Searching again on random parts of the pairs is stability selection, Meinshausen and Buehlmann 2010, arXiv 0809.2932.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from cotrace.components import Component
from cotrace.errors import DegenerateError, InputError
from cotrace.evaluation._folds import folds, resampled, strata
from cotrace.evaluation._records import Alternative, Stability
from cotrace.evaluation.setup import Case, Pairs, case_of, checks
from cotrace.problem.evaluator import Chosen, Evaluator
from cotrace.problem.protocol import MASK_ELEMENTS, Problem
from cotrace.problem.subproblem import Subproblem
from cotrace.results import Frontier, Table
from cotrace.results.effects import EffectTable
from cotrace.results.table import number
from cotrace.search.solve import Search, solve
from cotrace.statistics import Interval, Units, interval_text

RESAMPLES = 500
SHARE = 0.632
"""Share of the groups in a part: what a bootstrap resample holds on average."""
Progress = Callable[[str, int, int], None]


def jaccard(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Shared members by all members."""
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def choosable(table: EffectTable, k: int) -> bool:
    """Whether several sets of this size are stored: of one, a choice always returns it."""
    return int((table.sizes == k).sum()) > 1


def from_archive(
    table: EffectTable,
    names: Sequence[str],
    units: Units,
    sign: float,
    k: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Stability:
    """Select again, on resampled units, among the stored sets of this size. No forward at all."""
    rows = np.flatnonzero(table.sizes == k)
    score = sign * means(table.effects[rows].astype(np.float64), units, resampled(units, resamples, seed))
    picked, run = np.unique(rows[score.argmax(1)], return_inverse=True)
    sets = table.sets(picked)
    return Stability(
        method="archive bootstrap",
        runs=resamples,
        sets=len(rows),
        inclusion=_inclusion(np.bincount(run) @ sets / resamples, names),
        jaccard=_mean_jaccard([np.flatnonzero(row).tolist() for row in sets], run.tolist()[:100]),
    )


def means(
    effects: Float[np.ndarray, "set example"], units: Units, drawn: Float[np.ndarray, "resample unit"]
) -> Float[np.ndarray, "resample set"]:
    """The aggregate of each set on resampled units: of a sum of problems their means, each by its own weight."""
    total = np.zeros((len(drawn), len(effects)))
    for own in units.of_parts:
        top, bottom = drawn @ units.sums(effects * own).T, drawn @ units.sums(own)
        mean = (effects @ (own * units.weight)) / max(own @ units.weight, 1e-300)
        share = (own @ units.weight) / units.weight.sum()
        # A part of which only pairs without weight were drawn stays as it is.
        total += share * np.divide(top, bottom[:, None], out=np.tile(mean, (len(drawn), 1)), where=bottom[:, None] > 0)
    return total


def _inclusion(share: Float[np.ndarray, "n"], names: Sequence[str]) -> dict[str, float]:
    """Component -> share of the runs that select it, where some do."""
    members: list[int] = np.flatnonzero(share).tolist()
    return {names[i]: float(share[i]) for i in sorted(members, key=lambda i: (-share[i], i))}


def _mean_jaccard(sets: Sequence[Sequence[Any]], runs: Sequence[int] | None = None) -> float | None:
    """Over pairs of runs, whose sets these are; ``runs`` says which, where several found the same."""
    own = range(len(sets)) if runs is None else runs
    known = {(i, j): jaccard(sets[i], sets[j]) for i, j in {(i, j) for i, j in combinations(own, 2)}}
    found = [known[pair] for pair in combinations(own, 2)]
    return float(np.mean(found)) if found else None


def check_divisible(problem: Problem, option: str) -> None:
    """Raise InputError for a metric of the whole set: parts of its pairs are no part of it."""
    if problem.redraws:
        raise InputError(
            f"{option}: {problem.metric} is one number for the whole set, and parts of the pairs have none of their "
            f"own: leave {option} out"
        )


def search_again(
    problem: Problem, search: Search, k: int, runs: int, *, seed: int = 0, progress: Progress | None = None
) -> Stability:
    """Search again on random parts of the training pairs, groups kept whole, with another seed each time.

    Raises InputError where there are too few groups of pairs to take parts of.

    Args:
        problem: The problem that is searched again.
        search: The search.
        k: Size of the sets.
        runs: Number of searches.
        seed: Seed of the parts and of the searches.
        progress: Function of (what, done, of how many); None for none.
    """
    check_divisible(problem, "stability")
    units = Units.of(problem)
    if units.count < 3:
        raise InputError(f"stability needs at least 3 groups of pairs to leave some out, and these are {units.count}")
    before, sets = problem.cost.forward_equivalents, []
    for run in range(runs):
        if progress is not None:
            progress("searching again", run, runs)
        own = seeded(search, seed + run + 1)
        try:
            sets.append(list(solve(own, Subproblem(problem, part_of(units, seed + run))).best(k).members))
        except DegenerateError:
            sets.append([])
    picked = np.zeros((runs, len(problem.space)), bool)
    for row, members in zip(picked, sets, strict=True):
        row[:] = problem.space.indicator(members)
    kinds = ("groups of pairs left out" if units.clustered else "pairs left out",)
    return Stability(
        method="search",
        runs=runs,
        inclusion=_inclusion(picked.mean(0), problem.space.names),
        jaccard=_mean_jaccard(sets),
        forward_equivalents=problem.cost.forward_equivalents - before,
        kinds=(*kinds, "seed") if "seed" in search.settings else kinds,
    )


def seeded(search: Search, seed: int) -> Search:
    """The search with this seed, where it draws."""
    return search.set(seed=seed)


def limited(search: Search, k: int) -> Search:
    """The search up to this size, where it has sizes."""
    sizes = (*(size for size in search.sizes if size < k), k) if search.sizes else None
    return search.set(max_size=k, sizes=sizes)


def part_of(units: Units, seed: int) -> list[int]:
    """Examples of a random share of the units, at least one left out; the same share of each problem of a sum."""
    draw, found = np.random.default_rng(seed), strata(units)
    least = 2 if len(found) == 1 else 1
    taken = [draw.permutation(members)[: _some(len(members), least)] for members in found]
    examples: list[int] = np.flatnonzero(np.isin(units.unit, np.concatenate(taken))).tolist()
    return examples


def _some(count: int, least: int) -> int:
    """How many of so many units are taken: one at least is left out, unless there is only that one."""
    return max(min(max(round(SHARE * count), least), count - 1), 1)


def alternatives_known(
    judge: Evaluator, table: EffectTable, chosen: Bool[np.ndarray, "n"], most: int, units: Units
) -> tuple[Alternative, ...]:
    """For each member, the best stored set of this size without it, judged on these pairs."""
    same = np.flatnonzero(table.sizes == chosen.sum())
    sets = table.sets(same)
    value = judge.sign * (table.effects[same] * units.weight).sum(1) / units.weight.sum()
    found: dict[bytes, tuple[list[int], Bool[np.ndarray, "n"]]] = {}
    for member in np.flatnonzero(chosen).tolist():
        rows = np.flatnonzero(~sets[:, member])
        if len(rows):
            best = sets[rows[value[rows].argmax()]]
            found.setdefault(best.tobytes(), ([], best))[0].append(member)
    ordered = sorted(found.values(), key=lambda item: -len(item[0]))[:most]
    return tuple(_alternative(judge, chosen, best, members, "archive") for members, best in ordered)


def alternatives_searched(
    problem: Problem, judge: Evaluator, search: Search, chosen: Bool[np.ndarray, "n"], runs: int
) -> Iterator[Alternative]:
    """The best set of this size found without the members of every set before, so many times.

    Args:
        problem: The problem that is searched again.
        judge: The pairs that judge.
        search: The search.
        chosen: Indicator of the selection [n].
        runs: Number of searches.
    """
    forbidden: dict[Component, None] = {}
    current, k = chosen, int(chosen.sum())
    for _ in range(runs):
        forbidden |= dict.fromkeys(problem.space[i] for i in np.flatnonzero(current))
        if len(problem.space) - len(forbidden) < k:
            return
        current = judge.rows([solve(limited(search, k), Subproblem(problem, without=forbidden)).best(k).members])[0]
        yield _alternative(judge, chosen, current, problem.space.indices(forbidden), "search")


def _alternative(
    judge: Evaluator, chosen: Bool[np.ndarray, "n"], other: Bool[np.ndarray, "n"], without: Sequence[int], method: str
) -> Alternative:
    space = judge.problem.space
    own, value = judge.values(np.stack([chosen, other])).tolist()
    interval = judge.gain_interval(chosen, other)
    close = judge.sign * (own - value) <= 0.02 * abs(own)
    members: Chosen = np.flatnonzero(other)
    return Alternative(
        without=tuple(str(space[i]) for i in without),
        components=tuple(str(space[i]) for i in members),
        effect=value,
        difference=interval,
        overlap=jaccard(np.flatnonzero(chosen).tolist(), members.tolist()),
        near_equal=close or (interval is not None and interval[0] <= 0),
        method=method,
    )


ALTERNATIVES = 3
"""Most searches for another set, each without the members of all sets before."""


def most_cost(search: Search, n: int) -> float:
    """Forward-equivalents of searching n components, and of the full swap: at most, or typical if there is no bound."""
    bound = search.most_cost(n)
    return 1 + (bound if math.isfinite(bound) else search.predicted_cost(n))


def stability_cost(
    problem: Problem,
    frontier: Frontier,
    search: Search,
    runs: int,
    *,
    level: str = "quick",
    k: int | None = None,
    pairs: Pairs = "heldout",
    seed: int = 0,
) -> float:
    """Forward-equivalents of searching so often on parts of the pairs, and for other sets, at most.

    Args:
        problem: The problem that is searched again.
        frontier: The frontier that is judged.
        search: The search.
        runs: Number of searches.
        level: ``quick``, ``standard`` or ``full``.
        k: Size of the sets; None for the one that is judged in detail.
        pairs: ``heldout`` or ``audit``.
        seed: Seed of the parts.
    """
    case, units = case_of(problem, frontier, level=level, k=k, pairs=pairs), Units.of(problem)
    parts = sum(len(part_of(units, seed + run)) for run in range(runs)) / problem.size
    return parts * most_cost(search, len(problem.space)) + _alternatives_cost(case, search, runs)


def _alternatives_cost(case: Case, search: Search, runs: int) -> float:
    """Cost of searches in ever smaller spaces (each set found leaves), and of judging their sets."""
    k, n = case.k, len(case.problem.space)
    count = min(runs, ALTERNATIVES)
    smaller = limited(search, k)
    searches = most_cost(smaller, n - k) if n - k >= k else 0.0
    if count > 1:  # how many are left after the first is not known
        lefts = range(max(n - count * k, k), n - k)
        searches += (count - 1) * max((most_cost(smaller, left) for left in lefts), default=0.0)
    # The selection and each set are evaluated; a metric of the whole set is drawn again too; a ratio has a divisor.
    return searches + 2 * (count + 1) + 1 + checks(case)


def folds_cost(problem: Problem, search: Search, count: int) -> float:
    """Forward-equivalents of cross-fitting, at most: each fold searches all pairs but its own and judges on its own.

    Args:
        problem: The problem whose pairs are divided.
        search: The search.
        count: Number of folds.
    """
    n = len(problem.space)
    whole = most_cost(search, n)
    sizes = min(search.max_size or n, n)
    twice = 1 + (sizes * max(n, problem.size) > MASK_ELEMENTS)  # then no effects are kept, and they are measured anew
    by_cost = whole if search.cost_weights else 0
    return (count - 1) * whole + twice * sizes + 2 + by_cost


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
    """Number of folds."""
    search: str
    """Name of the search."""
    pairs: int
    """Number of pairs judged."""
    rows: tuple[CrossFitted, ...]
    """One for each size."""
    forward_equivalents: float
    """Cost of all searches and figures."""

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

    Args:
        problem: The problem whose pairs are divided.
        search: The search.
        count: Number of folds, at least 2.
        seed: Seed of the division.
        progress: Function of (what, done, of how many); None for none.
    """
    check_divisible(problem, "folds")
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
        part = Subproblem(problem, searched, unseen=unseen)
        parts.append((unseen, part, solve(search, part)))
    sizes = sorted(set.intersection(*(set(frontier.sizes) for _, _, frontier in parts)))
    whole = Evaluator(problem)
    rows = tuple(_row(whole, parts, k) for k in sizes)
    spent = problem.cost.forward_equivalents - before
    return CrossFit(folds=count, search=search.name, pairs=problem.size, rows=rows, forward_equivalents=spent)


def _row(whole: Evaluator, parts: list[tuple[list[int], Subproblem, Frontier]], k: int) -> CrossFitted:
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
