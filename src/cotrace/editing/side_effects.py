"""The trade-off of an edit: its strength against its side effects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cotrace.donors import DonorSource, Scale, Zero
from cotrace.editing.apply import changed, changes, checked_factor, described, stand_alone
from cotrace.editing.scoring import Parts, ScoredTask, level, outcome
from cotrace.errors import InputError, unknown
from cotrace.metrics import GROUPS, AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.problem.full_swap import unclear
from cotrace.problem.goals import UnknownText, high_loss, loss_of
from cotrace.problem.scored import rounding
from cotrace.prompts import Task
from cotrace.results import Selection
from cotrace.results.outcomes import EditPoint, Harm, Tradeoff, pareto
from cotrace.shipped import SHIPS
from cotrace.tasks.texts import suited, text
from cotrace.text.progress_bar import warn
from cotrace.validation import checked

NEUTRAL = "neutral"
HARM_WORDS = {"rise": "{}: rise of {}", "fall": "{}: fall of {}", "change": "{}: change of {}"}
_BOUND = re.compile(r"\s*(?P<name>[\w./-]+)\s*<=\s*(?P<amount>\d+(\.\d+)?)\s*(?P<percent>%?)\s*")


@dataclass(frozen=True, kw_only=True)
class Side:
    """A task that an edit should leave as it is."""

    name: str
    """Name in constraints."""
    task: Task
    """Its prompt pairs."""
    metric: str
    """Name of its metric."""
    harm: Harm
    """Kind of change that counts as harm: ``rise``, ``fall`` or ``change``."""
    suits: bool = False
    """Whether the task is to be the neutral text, of those that ship, that the model knows better."""
    most: int | None = None
    """Most lines of that text."""
    settled: bool = False
    """Whether it has been fitted to a model."""

    def of(self, model: LanguageModel) -> Side:
        """The side for this model, once. Warns where the model does not know the text. Raises InputError."""
        if self.settled:
            return self
        task = suited(model, most=self.most) if self.suits else self.task
        if task.source.endswith(SHIPS) and (said := high_loss(model, task, loss_of(model, task))):
            warn(said, UnknownText)
        return replace(self, task=task, settled=True)

    @property
    def words(self) -> str:
        """The harm in words, for the head of a column."""
        return HARM_WORDS[self.harm].format(self.name, self.metric)


def neutral(path: str | Path | None = None, *, most: int | None = None) -> Side:
    """The next-token loss on a neutral text: a file with one passage a line, or the one that suits the model.

    Without ``path`` it is the one of the two texts that ship which the edited model knows better.

    Args:
        path: Text file with one passage a line.
        most: Most lines; None for all.
    """
    return Side(name=NEUTRAL, task=text(path, most=most), metric="nll", harm="rise", suits=path is None, most=most)


def second_task(task: Task, *, metric: str = "accuracy", harm: Harm = "fall") -> Side:
    """Another task: by default the share of pairs whose right answer (the label, or else the target) is on top.

    Args:
        task: Its prompt pairs.
        metric: Name of its metric.
        harm: Kind of change that counts as harm.
    """
    return Side(name=task.name, task=task, metric=metric, harm=harm)


@dataclass(frozen=True)
class Limit:
    """The most harm that an edit may do to one side."""

    name: str
    """Name of the side, such as ``neutral``."""
    most: float
    """Most harm, as a share."""

    @classmethod
    def parse(cls, words: str) -> Limit:
        """``neutral<=1%`` or ``demo_agreement<=0.02``: a share. Raises InputError.

        Args:
            words: A name, ``<=`` and a share or per cent.
        """
        match = _BOUND.fullmatch(words)
        if match is None:
            raise InputError(f"constraint {words!r}: write NAME<=SHARE, as in neutral<=1% or demo_agreement<=0.02")
        return cls(match["name"], float(match["amount"]) / (100 if match["percent"] else 1))

    @property
    def words(self) -> str:
        """The bound as it is written."""
        return f"{self.name}<={self.most:.3g}"


def check_limits(limits: Sequence[Limit], sides: Sequence[Side]) -> None:
    """Raises UnknownName for a bound on something that is not measured."""
    names = [side.name for side in sides]
    for limit in limits:
        if limit.name not in names:
            raise unknown("side effect", limit.name, names)


Aim = Literal["maximise", "minimise", "zero"]
FACTORS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ROUNDS = 4
"""How often the factor at which a limit is reached is looked for half-way between two that were tried."""
Progress = Callable[[str], None]


@checked("ct.editing.sweep")
def sweep(
    model: LanguageModel,
    task: Task,
    selection: Selection,
    *,
    factors: Sequence[float | int] = FACTORS,
    metric: str | AnyMetric | None = None,
    aim: Aim | None = None,
    sides: Sequence[Side] = (),
    parts: Parts | LanguageProblem | None = None,
    holdout: float = 0.3,
    seed: int = 0,
) -> Tradeoff:
    """One selection under ``scale`` for each factor: does the set found by swapping carry the effect when damped?

    ``parts`` is the problem that was searched. Without it the whole task is split by ``holdout`` and ``seed``, which is
    the search's split only where that refused no pair and was given neither ``split_by`` nor ``audit``.

    Args:
        model: The base model.
        task: The traced task.
        selection: Components to damp.
        factors: Factors of the own value, from -1 to 2.
        metric: The metric; None for the task's.
        aim: Wanted change: ``maximise``, ``minimise`` or ``zero``; None for the default of ``tradeoff``.
        sides: Tasks that should stay as they are.
    """
    donors = [Scale(checked_factor(factor)) for factor in factors]
    parts = Parts.settled(parts, task, holdout, seed)
    return tradeoff(model, task, [selection], donors, metric=metric, aim=aim, sides=sides, parts=parts)


def tradeoff(
    model: LanguageModel,
    task: Task,
    selections: Sequence[Selection],
    donors: Sequence[str | DonorSource],
    *,
    metric: str | AnyMetric | None = None,
    aim: Aim | None = None,
    sides: Sequence[Side] = (),
    limits: Sequence[Limit] = (),
    parts: Parts | LanguageProblem | None = None,
    seed: int = 0,
    progress: Progress = lambda line: None,
) -> Tradeoff:
    """Every selection under every donor. ``parts`` is the problem that was searched; see ``sweep``.

    Strength is how far the metric moves as ``aim`` says: up, down, or towards 0 (the default for gaps between groups;
    else the way in which the strongest edit moves it, beyond rounding and chance). It is measured on the pairs that the
    search saw, to choose by, and on held-out pairs, with the harm in each side. An edit is allowed where each harm is
    within its limit on both halves of the side's own data; where there are limits, factors between an allowed and a
    stronger one are tried too.
    Raises CotraceError.

    Args:
        model: The base model.
        task: The traced task.
        selections: Sets to edit.
        donors: Donors that stand alone.
        metric: The metric; None for the task's.
        sides: Tasks that should stay as they are.
        limits: Bounds on the harm in sides.
        seed: Seed of the split and of the halves of each side.
        progress: Function that is called with one line before every edit.
    """
    check_limits(limits, sides)
    if not selections or not donors:
        raise InputError("a trade-off needs at least one selection and one donor")
    parts, sides = Parts.settled(parts, task, 0.3, seed), [side.of(model) for side in sides]
    bench = _Bench(model, task, metric_named(metric or task.metric), parts, sides, seed)
    runs = []
    for selection in selections:
        for donor in donors:
            progress(f"k = {selection.k}, {described(donor)}")
            runs.append(bench.run(selection, donor))
    aim = aim or bench.default_aim(runs)
    for _ in range(ROUNDS if limits else 0):
        runs += [bench.run(*between) for between in _borders(bench, runs, aim, limits)]
    return _judged(bench, runs, aim, limits)


def _borders(
    bench: _Bench, runs: Sequence[_Run], aim: Aim, limits: Sequence[Limit]
) -> Iterator[tuple[Selection, Scale]]:
    """Return factors half-way between an allowed one and a neighbour that would be the strongest edit yet."""
    strengths = {run: strength(aim, *bench.number(run, 0)) for run in runs}
    allowed = {run: bench.within(run, limits) for run in runs}
    best = max((strengths[run] for run in runs if allowed[run]), default=0.0)
    for selection in dict.fromkeys(run.selection for run in runs):
        own = sorted(
            (r for r in runs if r.selection == selection and r.factor is not None), key=lambda r: r.factor or 0
        )
        for a, b in pairwise(own):
            outer = a if allowed[b] else b
            if allowed[a] != allowed[b] and strengths[outer] > best:
                yield selection, Scale(round(((a.factor or 0) + (b.factor or 0)) / 2, 4))


@dataclass(frozen=True, eq=False)
class _Run:
    """The score tables of one edit: training pairs, held-out pairs, then both halves of each side."""

    selection: Selection
    donor: str
    factor: float | None
    tables: tuple[Tensor, ...]


class _Bench:
    """Everything that edits are scored on, scored once without any."""

    def __init__(
        self, model: LanguageModel, task: Task, metric: AnyMetric, parts: Parts, sides: Sequence[Side], seed: int
    ) -> None:
        self.model, self.metric, self.sides = model, metric, sides
        self.reference = parts.reference(task)
        self.unseen = set(parts.training).isdisjoint(parts.heldout)
        self.parts = [ScoredTask(model, task, ids, clusters=parts.clusters) for ids in (parts.training, parts.heldout)]
        for part in self.parts:
            metric.check(part.answers)
        for side in sides:
            halves = Parts.of(side.task, 0.5, seed)
            self.parts += [ScoredTask(model, side.task, ids) for ids in (halves.training, halves.heldout)]
        self.before = [part.scores() for part in self.parts]

    def run(self, selection: Selection, donor: str | DonorSource) -> _Run:
        """Score everything under one edit."""
        source = stand_alone(donor, self.model, self.reference)
        with changed(self.model, changes(self.model, selection, source)):
            tables = tuple(part.scores() for part in self.parts)
        return _Run(selection, described(donor), _factor(source), tables)

    def number(self, run: _Run, part: int) -> tuple[float, float]:
        """The traced metric before and after, in the form that searches follow."""
        one, before = self.parts[part], self.before[part]
        return level(self.metric, one, before, before, soft=True), level(
            self.metric, one, before, run.tables[part], soft=True
        )

    def default_aim(self, runs: Sequence[_Run]) -> Aim:
        """Towards 0 for a gap, else the way of the strongest edit. Raises InputError where that shows none."""
        if self.metric.name in GROUPS:
            return "zero"
        part, before = self.parts[0], self.before[0]
        strongest = max(runs, key=lambda run: abs(float(np.subtract(*self.number(run, 0)))))
        found = outcome(self.metric, part, before, strongest.tables[0], soft=True)
        start = level(self.metric, part, before, before, soft=True)
        least = rounding(
            before,
            self.model.rounding_dtype,
            lambda pieces: torch.tensor(level(self.metric, part, before, torch.cat(list(pieces)), soft=True) - start),
        )
        if why := unclear("that change", found.change, found.change_interval, least):
            raise InputError(
                f"the strongest edit (k = {strongest.selection.k}, {strongest.donor}) moves {found.name} by "
                f"{found.change:+.3g}, which shows no direction, as {why}: give aim='maximise', 'minimise' or 'zero'"
            )
        return "maximise" if found.change > 0 else "minimise"

    def harm(self, run: _Run, side: int, half: int) -> float:
        """The harm in one half of a side's data."""
        at, what = 2 + 2 * side + half, self.sides[side]
        metric, part, before = metric_named(what.metric), self.parts[at], self.before[at]
        numbers = [level(metric, part, before, table) for table in (before, run.tables[at])]
        change = numbers[1] - numbers[0]
        if what.harm == "rise":
            return change / abs(numbers[0]) if numbers[0] else abs(change)
        return -change if what.harm == "fall" else abs(change)

    def within(self, run: _Run, limits: Sequence[Limit]) -> bool:
        """Whether every limit holds on both halves of its side."""
        at = {side.name: i for i, side in enumerate(self.sides)}
        return all(self.harm(run, at[limit.name], half) <= limit.most for limit in limits for half in (0, 1))


def _factor(source: DonorSource) -> float | None:
    return source.factor if isinstance(source, Scale) else 0.0 if isinstance(source, Zero) else None


def _judged(bench: _Bench, runs: Sequence[_Run], aim: Aim, limits: Sequence[Limit]) -> Tradeoff:
    order = {selection: i for i, selection in enumerate(dict.fromkeys(run.selection for run in runs))}
    runs = sorted(runs, key=lambda run: (order[run.selection], run.factor is None, run.factor or 0.0))
    seen, held = ([strength(aim, *bench.number(run, part)) for run in runs] for part in (0, 1))
    harms = [tuple(bench.harm(run, side, 1) for side in range(len(bench.sides))) for run in runs]
    best = pareto(held, harms)
    points = [
        _point(bench, run, seen[i], held[i], harms[i], bench.within(run, limits), best[i]) for i, run in enumerate(runs)
    ]
    return Tradeoff(
        task=bench.parts[0].task.name,
        metric=points[0].outcome.metric,
        aim=aim,
        points=tuple(points),
        harms=tuple(side.words for side in bench.sides),
        constraints=tuple(limit.words for limit in limits),
        unseen=bench.unseen,
    )


def _point(
    bench: _Bench, run: _Run, train: float, held: float, harms: tuple[float, ...], allowed: bool, front: bool
) -> EditPoint:
    """The figures of one edit; intervals, which take a while, where nothing beats it."""
    sides = [
        outcome(
            metric_named(side.metric),
            bench.parts[3 + 2 * i],
            bench.before[3 + 2 * i],
            run.tables[3 + 2 * i],
            intervals=front,
        )
        for i, side in enumerate(bench.sides)
    ]
    traced = outcome(bench.metric, bench.parts[1], bench.before[1], run.tables[1], soft=True, intervals=front)
    return EditPoint(
        k=run.selection.k,
        donor=run.donor,
        factor=run.factor,
        components=tuple(run.selection.components),
        strength=train,
        strength_heldout=held,
        outcome=traced,
        sides=tuple(sides),
        harms=harms,
        allowed=allowed,
        pareto=front,
    )


def strength(aim: Aim, before: float, after: float) -> float:
    """How far a number moved as it should."""
    if aim == "zero":
        return abs(before) - abs(after)
    return after - before if aim == "maximise" else before - after
