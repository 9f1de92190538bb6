"""Assess: a frontier, or one selection, judged at a level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cotrace.components import Component
from cotrace.errors import InputError
from cotrace.evaluation._minimality import completeness, interactions, minimality
from cotrace.evaluation._records import (
    Alternative,
    Controls,
    Difference,
    Faithfulness,
    SideEffect,
    SizeEvidence,
    Stability,
)
from cotrace.evaluation._sizes import (
    best_singles,
    certificate,
    curve_sizes,
    faithfulness,
    off_manifold,
    refused,
    size_row,
    tested,
)
from cotrace.evaluation._verdict import with_verdict
from cotrace.evaluation.evaluation import Evaluation
from cotrace.evaluation.published import Roles, belonging, foreign_set, inside_of, judge_on
from cotrace.evaluation.setup import Case, Pairs, case_of, frontier_of, result_of
from cotrace.evaluation.stability import alternatives_known, choosable, from_archive
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import JudgePairs, Problem, check_same
from cotrace.results import AnySet, Frontier, Selection
from cotrace.results.effects import HardFigure
from cotrace.search.solve import reported, reported_base
from cotrace.statistics import FEWEST_UNITS, RESAMPLES, Interval, Units, covers, need_units
from cotrace.text.progress_bar import warn

Progress = Callable[[str, int, int], None]
"""Called with what is done next, how many parts are done, and how many there are."""


class TooFewPairs(UserWarning):
    """There are too few pairs for intervals; their columns stay empty."""


@dataclass(frozen=True)
class Foreign:
    """A set from elsewhere, with the roles of its components where it has some."""

    name: str
    """Name of the set."""
    members: tuple[Component, ...]
    """Its components."""
    roles: Roles | None = None
    """Role -> its components; None where it has none."""


def evaluate(
    problem: Problem,
    result: Frontier | Sequence[Frontier] | AnySet,
    *,
    level: str = "quick",
    k: int | None = None,
    pairs: Pairs = "heldout",
    foreign: Sequence[Foreign] = (),
    side: Sequence[Problem] = (),
    intervals: bool = False,
    smallest_p: float | None = None,
    every_size: bool = False,
    judge_pairs: JudgePairs = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge a frontier (of several, the first, against the others) or one set, on pairs that no search has seen.

    A set is a Selection, component names, or a mask of 0 and 1 [n] in the problem's mode.

    ``k`` is the size that is judged in detail and tested; by default the smallest with 90 % of the best effect on the
    pairs searched, so it is fixed before the pairs that judge are looked at. ``intervals`` makes too few pairs an
    error, ``smallest_p`` asks for as many controls as that p-value needs, ``every_size`` for random sets at every size
    rather than at some. ``judge_pairs`` judges on other held-out pairs than the problem was built with: at most so
    many, or ``"all"``. Raises InputError.

    Args:
        problem: The problem that the result is of.
        result: A frontier, several, or a set.
        level: ``quick``, ``standard`` or ``full``.
        pairs: ``heldout``, or ``audit`` (once).
        foreign: Sets from elsewhere to compare with.
        side: Problems over the same components, for side effects.
        seed: Seed of resamples and random sets.
        progress: Function of (what, done, of how many) that is called before every part; None for none.
    """
    asked: dict[str, Any] = {
        "level": level,
        "k": k,
        "pairs": pairs,
        "smallest_p": smallest_p,
        "every_size": every_size,
        "judge_pairs": judge_pairs,
        "seed": seed,
    }
    case, others = settled(problem, result, intervals=intervals, **asked)
    for each in side:
        check_side(problem, each)
    for one in foreign:
        inside_of(problem.space, one.name, one.members)
    return with_verdict(_assess(case, level, others, foreign, side, progress or _silent))


def settled(
    problem: Problem, result: Frontier | Sequence[Frontier] | AnySet, *, intervals: bool = False, **asked: Any
) -> tuple[Case, list[Frontier]]:
    """Settle the sets to judge and those to compare with; evaluates nothing. Raises InputError, UnknownName."""
    result = result_of(problem, result)
    given = frontier_of(problem, result) if isinstance(result, Selection) else result
    first, *others = [given] if isinstance(given, Frontier) else given
    for other in others:
        check_comparable(first, other)
    case = case_of(problem, first, **asked)
    if intervals:
        need_units(case.judge.units, "an interval")
    return case, others


def check_comparable(first: Frontier, other: Frontier) -> None:
    """Raises InputError unless two frontiers answer one question."""
    for what, own, theirs in (
        ("mode", first.mode, other.mode),
        ("metric", first.metric, other.metric),
        ("components", first.space.outline, other.space.outline),
        ("components", first.space.components, other.space.components),
    ):
        if own != theirs:
            shown = f" ({first.search}: {own}; {other.search}: {theirs})" if isinstance(own, str) else ""
            raise InputError(
                f"the frontiers of {first.search} and {other.search} differ in {what}{shown}: compare searches of one "
                "problem"
            )


def check_side(problem: Problem, side: Problem) -> None:
    """Raises InputError unless masks of the problem mean the same in the side problem, and are read as a change."""
    check_same(problem, side, mode=False)
    if side.mode != "swap":
        raise InputError(
            f"side effect on {side.task}: a side problem measures a change, so build it with mode='swap' (its masks "
            "mean the same in both modes)"
        )


def _silent(what: str, done: int, of: int) -> None:
    """Says nothing."""


def _assess(
    case: Case,
    name: str,
    others: Sequence[Frontier],
    foreign: Sequence[Foreign],
    side: Sequence[Problem],
    progress: Progress,
) -> Evaluation:
    before = case.cost + _cost(side)
    case = belonging(case)
    progress("held-out effects and intervals", 0, 5)
    rows, everything = _rows(case), case.judge.rows([tuple(case.problem.space)])
    full = case.judge.interval(everything[0])
    progress("controls", 1, 5)
    rows, controls = _controlled(case, rows)
    progress("members and outsiders", 2, 5)
    detail = _detail(case) if case.level.members else {}
    progress("faithfulness and side effects", 3, 5)
    detail |= {"faithfulness": _curve(case, full), "side_effects": tuple(_side(case, each) for each in side)}
    progress("comparisons", 4, 5)
    detail |= {"differences": tuple(row for other in others for row in _differences(case, other))}
    detail |= {"foreign": tuple(foreign_set(case.judge, case.frontier, f.name, f.members, f.roles) for f in foreign)}
    return Evaluation(
        level=name,
        search=case.frontier.search,
        metric=case.judge.problem.metric,
        task=case.problem.task,
        mode=case.problem.mode,
        direction=case.problem.direction,
        judged_on=case.judged_on,
        pairs=case.judge.problem.size,
        units=case.judge.units.words,
        k=case.k,
        components=tuple(case.selection.components),
        full_effect=float(case.judge.values(everything)[0]),
        full_interval=full,
        full_is_clear=case.judge.problem.full_is_clear,
        full_is_clear_training=case.problem.full_is_clear,
        hard=_hard(case, case.judge),
        hard_training=None if case.judged_on == "training" else _hard(case, case.training),
        sizes=tuple(rows[size] for size in sorted(rows)),
        median_interval=case.judge.median_interval(case.chosen([case.k])[0]),
        training_effect=case.training_effect,
        controls=controls,
        notes=_notes(case),
        stability=_stability(case),
        off_manifold=tuple(off_manifold(case.judge, case.chosen(sorted(rows)))),
        forward_equivalents=round(case.cost + _cost(side) - before, 6),
        **detail,
    )


def _hard(case: Case, judge: Evaluator) -> HardFigure | None:
    """The metric as people read it, before and under the selection; as the search had it on this problem."""
    before = reported_base(judge.problem)
    if before is None:
        return None
    chosen, after = case.chosen([case.k]), case.known_level("training" if judge is case.training else case.judged_on)
    if after is None:
        if judge is not case.judge:
            return None  # of the pairs searched only what the search found is told
        found = reported(judge.problem, torch.from_numpy(chosen))
        assert found is not None, "there is a level of the base run"
        after = found[0]
    soft = float(judge.values(chosen)[0]) if case.problem.mode == "swap" else None
    return HardFigure(before, after, soft, judge.problem.target)


def _cost(side: Sequence[Problem]) -> float:
    """Return the cost of the side problems so far."""
    return sum((each.heldout or each).cost.forward_equivalents for each in side)


def _rows(case: Case) -> dict[int, SizeEvidence]:
    """Effect and interval of every size that is known or asked for."""
    sizes = case.frontier.sizes
    known = case.judge.unknown(case.chosen(sizes)) == 0
    wanted = sizes if known or case.level.every_size else case.tested
    chosen = case.chosen(wanted)
    case.judge.intervals(chosen)
    return {size: size_row(case.judge, row) for size, row in zip(wanted, chosen, strict=True)}


def _controlled(case: Case, rows: dict[int, SizeEvidence]) -> tuple[dict[int, SizeEvidence], Controls]:
    sizes = case.tested
    singles = best_singles(case.training, sizes, case.level.singles)
    found, about = tested(case.judge, rows, case.chosen(sizes), singles, case.chains, case.k, case.seed)
    return rows | found, about


def _detail(case: Case) -> dict[str, Any]:
    """The parts about the selection that ``quick`` leaves out."""
    chosen, level = case.chosen([case.k])[0], case.level
    return {
        "minimality": minimality(case.judge, chosen, level.members),
        "completeness": completeness(case.judge, chosen),
        "alternatives": _alternatives(case, chosen),
        "interactions": interactions(
            case.judge, chosen, pairs=level.pairs, subsets=level.subsets, outside=level.outside, seed=case.seed
        ),
        "certificate": certificate(case.training, chosen, level.exhaustive),
    }


def _alternatives(case: Case, chosen: np.ndarray) -> tuple[Alternative, ...]:
    """The best sets that the search knew without each member."""
    known = case.training.stored
    if known is None:
        return ()
    return alternatives_known(case.judge, known, chosen, case.level.alternatives, case.training.units)


def _stability(case: Case) -> tuple[Stability, ...]:
    """Re-selection among the sets whose effects the search kept; it costs nothing, so every level has it."""
    table = case.training.stored
    if table is None or case.training.units.count < 3 or not choosable(table, case.k):
        return ()
    names, units = case.problem.space.names, case.training.units
    return (from_archive(table, names, units, case.training.sign, case.k, seed=case.seed),)


def _no_stability(case: Case) -> str | None:
    """Why there is no re-selection without a forward; None where there is, or that was said already."""
    table = case.training.stored
    if case.foreign_effects:
        return None
    if table is None:
        return "the search kept no effect of each pair: no re-selection without a forward"
    if not choosable(table, case.k) and case.k < table.n:
        kept = int((table.sizes == case.k).sum())
        return (
            f"no re-selection without a forward: the search kept effects of {kept} set{'s' * (kept != 1)} of "
            f"{case.k}, which leaves nothing to choose from; searching again (stability=5, with a search) finds more"
        )
    return None


def _curve(case: Case, full: Interval | None) -> Faithfulness | None:
    sizes = curve_sizes(case.judge.n, case.frontier.sizes, case.level.curve) if case.level.curve else []
    if not sizes:
        return None
    if case.problem.mode == "swap" and covers(full):
        return refused(case.problem, "the interval of the full swap, which f is divided by, covers 0")
    if case.problem.mode == "swap" and not case.judge.problem.full_is_clear:
        return refused(case.problem, "the full swap, which f is divided by, is not shown to do more than rounding")
    return faithfulness(case.judge.problem, case.chosen(sizes))


def _side(case: Case, problem: Problem) -> SideEffect:
    """Evaluate the judged masks on another problem: in ``keep`` mode all but the chosen take the donor's."""
    judge = Evaluator(problem.heldout or problem)
    sizes = [size for size in case.tested if size != case.k][: case.level.sides]
    chosen = case.chosen([case.k, *sizes])
    moved = chosen if case.problem.mode == "swap" else ~chosen
    judge.prepare(moved[:1])
    values = judge.values(moved).tolist()
    return SideEffect(
        task=problem.task,
        metric=problem.metric,
        change=values[0],
        interval=judge.interval(moved[0]),
        examples=judge.problem.size,
        per_size=dict(zip([case.k, *sizes], values, strict=True)),
        mode=case.problem.mode,
    )


def _differences(case: Case, other: Frontier) -> list[Difference]:
    """This search less another, at the tested sizes that both have; paired."""
    sizes = [size for size in case.tested if size in other.sizes]
    if not sizes:
        return []
    stored = other.effects_heldout if case.judged_on == "held-out" else None
    theirs = judge_on(case.judge.problem, stored, case.problem)
    return [_difference(case, other, theirs, size) for size in sizes]


def _difference(case: Case, other: Frontier, theirs: Evaluator, size: int) -> Difference:
    mine, own = case.chosen([size]), theirs.rows([other.at(size).members])
    case.judge.prepare(mine)
    theirs.prepare(own)
    change = case.judge.sign * float(case.judge.values(mine)[0] - theirs.values(own)[0])
    interval = case.judge.gain_interval(mine[0], own[0], theirs)
    return Difference(search=other.search, k=size, difference=change, interval=interval)


def _whole(case: Case) -> str:
    """Name the figures that a metric of the whole set lacks."""
    rest = "no median, no test of each member" + ("" if case.judge.has_intervals else ", no intervals")
    return f"{case.judge.problem.metric} is one number for the whole set, without an effect of each pair: {rest}"


def _notes(case: Case) -> tuple[str, ...]:
    """Collect notes on figures that are missing. Warns, once, where there are too few pairs for intervals."""
    notes = list(case.notes)
    units: Units = case.judge.units
    if case.judged_on == "training":
        notes.append(
            "nothing is held out: these effects are of the pairs that were searched, and too good by selection"
        )
    if drawn := case.judge.problem.drawn:
        notes.append(drawn)
    if not case.judge.has_effects:
        notes.append(_whole(case))
    if case.judge.has_intervals and not units.enough:
        notes.append(f"no intervals: they need at least {FEWEST_UNITS} independent pairs, and these are {units.words}")
        warn(notes[-1], TooFewPairs)
    elif case.judge.no_ratio:
        notes.append("no intervals: that of the full swap's effect, which faithfulness is divided by, covers 0")
    if case.judge.missing:
        notes.append(
            f"up to {case.judge.missing} of {RESAMPLES:,} resamples have no value (no pair of some group is drawn): "
            "intervals leave them out, and where they are more than 5 % there is none"
        )
    if (why := _no_stability(case)) is not None:
        notes.append(why)
    return tuple(notes)
