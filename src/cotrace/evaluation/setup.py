"""The set-up of an evaluation: sets, pairs, level and cost, settled before the first evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any, Literal, get_args

import numpy as np

from cotrace.errors import InputError, unknown
from cotrace.evaluation import controls as random_sets
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import JudgePairs, Problem
from cotrace.results import AnySet, Frontier, Selection, Table, selection_of
from cotrace.results.effects import EffectTable
from cotrace.search.hyperparameters import geometric
from cotrace.search.solve import is_of
from cotrace.statistics import controls_needed


@dataclass(frozen=True, kw_only=True)
class Level:
    """Limits of one level. Every number of masks is an upper limit; small spaces need fewer."""

    sizes: int
    """Sizes that are tested against controls."""
    chains: int
    singles: int = 0
    """Largest N at which single effects are evaluated; above it, and at 0, they are ranked by one gradient."""
    members: int = 0
    """Members whose leaving is evaluated."""
    pairs: int = 0
    """Members whose pairs are evaluated."""
    subsets: int = 0
    """Sets evaluated for Shapley values."""
    outside: int = 0
    """Components outside the selection whose joining is evaluated."""
    alternatives: int = 0
    curve: int = 0
    """Sizes of the faithfulness curve."""
    sides: int = 0
    """Sizes at which side effects are evaluated, beside the selection's."""
    every_size: bool = False
    """Evaluate every size of the frontier, also where its effects were not kept."""
    exhaustive: int = 0
    """Most sets that are evaluated to certify the optimum."""


ALONE = 40
"""Most components outside whose effect alone is evaluated too: those whose joining does most."""

LEVELS: Mapping[str, Level] = {
    "quick": Level(sizes=7, chains=19),
    "standard": Level(
        sizes=7, chains=39, singles=160, members=24, pairs=6, alternatives=8, curve=10, sides=2, exhaustive=30
    ),
    "full": Level(
        sizes=7,
        chains=99,
        singles=200,
        members=32,
        pairs=8,
        subsets=220,
        outside=120,
        alternatives=10,
        curve=12,
        sides=3,
        every_size=True,
        exhaustive=500,
    ),
}


def level_named(name: str) -> Level:
    """The level of that name. Raises UnknownName."""
    if name not in LEVELS:
        raise unknown("level", name, LEVELS)
    return LEVELS[name]


@dataclass(frozen=True)
class Step:
    """One part of an evaluation and what it will cost at most."""

    name: str
    about: str
    forward_equivalents: int


@dataclass(frozen=True)
class EvaluationPlan:
    """The plan of an evaluation. Prints as a table."""

    level: str
    """``quick``, ``standard`` or ``full``."""
    steps: tuple[Step, ...]
    """The steps with their cost."""

    def __repr__(self) -> str:
        return f"EvaluationPlan({self.level}, at most {self.forward_equivalents:,} forward-equivalents)"

    @property
    def forward_equivalents(self) -> int:
        """Most forward-equivalents of the evaluation, without side problems and searches."""
        return sum(step.forward_equivalents for step in self.steps)

    def table(self) -> Table:
        """The parts and their cost."""
        rows = [(step.name, step.about, f"{step.forward_equivalents:,}") for step in self.steps]
        title = f"Evaluation {self.level}: at most {self.forward_equivalents:,} forward-equivalents"
        return Table(title, ("part", "what it does", "cost, at most"), rows, frozenset({0, 1}))

    def __str__(self) -> str:
        return str(self.table())


def tested_sizes(sizes: Sequence[int], level: Level, k: int) -> list[int]:
    """The sizes that are tested: spread evenly in their logarithm over those found, the chosen one among them."""
    grid = geometric(sizes[-1], level.sizes) if sizes[-1] > level.sizes else list(range(1, sizes[-1] + 1))
    nearest = [min(sizes, key=lambda size: (abs(size - wanted), size)) for wanted in grid]
    found = sorted(set(nearest))
    if k not in found:
        found[min(range(len(found)), key=lambda i: abs(found[i] - k))] = k
    return sorted(set(found))


def plan(
    name: str,
    level: Level,
    *,
    n: int,
    k: int,
    sizes: Sequence[int],
    stored: bool,
    singles: bool,
    checks: int = 0,
    levels: int = 0,
) -> EvaluationPlan:
    """Return the steps of a level in a space of n, for a frontier of these sizes and a selection of k.

    ``stored`` says whether the frontier kept its held-out effects, ``singles`` whether every single effect is known,
    ``checks`` how many sets are measured again to see whether stored effects are of this problem, ``levels`` how many
    for the level that people read.
    """
    tested = tested_sizes(sizes, level, k)
    own = 0 if stored else len(sizes if level.every_size else tested)
    ranked = 0 if singles else n if n <= level.singles else 2
    steps = [
        Step("belonging", "whether stored effects are of this problem", checks),
        Step("held-out", f"effect and interval at {len(sizes) if stored else own} sizes", own + 1),
        Step("level", "the metric as people read it, under the selection", levels),
        Step("controls", f"{level.chains} nested random chains at {len(tested)} sizes", level.chains * len(tested)),
        Step("single effects", f"the best single components at {len(tested)} sizes", ranked + len(tested)),
        *_detail(level, n, k),
    ]
    return EvaluationPlan(name, tuple(step for step in steps if step.forward_equivalents))


def _detail(level: Level, n: int, k: int) -> list[Step]:
    members, pairs, outside = min(level.members, k), min(level.pairs, k), min(level.outside, n - k)
    together = comb(pairs, 2)
    return [
        Step("minimality", f"{members} members leave in turn", members + (members > 0) * (1 + 2 * (k > members))),
        Step("completeness", "the components outside the selection", int(level.members > 0)),
        Step("alternatives", "the best sets known without a member", level.alternatives),
        Step("interactions", f"{pairs} members in pairs, within the selection and alone", 2 * together + pairs),
        Step("shapley", "subsets of the selection", level.subsets),
        Step("outside", f"{outside} other components join the selection", (outside > 0) * (outside + ALONE + 2)),
        Step("faithfulness", f"sets kept at {level.curve} sizes", (level.curve > 0) * (level.curve + 1)),
        Step("certificate", "every set of the size", certain if (certain := comb(n, k)) <= level.exhaustive else 0),
    ]


Pairs = Literal["heldout", "audit"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """The sets to judge, the pairs that judge, and the level."""

    problem: Problem
    frontier: Frontier
    judge: Evaluator
    training: Evaluator
    judged_on: str
    level: Level
    chains: int
    k: int
    seed: int
    foreign_effects: bool = False
    """Whether the effects that came with the result were of another problem, and left out."""
    notes: tuple[str, ...] = ()

    @property
    def training_effect(self) -> float | None:
        """The selection's effect on the pairs searched: as the search had it, where it had it on this problem."""
        known = self.selection.effect
        return known if not self.foreign_effects else float(self.training.values(self.chosen([self.k]))[0])

    def known_level(self, part: str) -> float | None:
        """The selection's level as people read it, where the search found it on these pairs of this problem."""
        known = {"held-out": self.selection.reported_heldout, "training": self.selection.reported}
        return None if self.foreign_effects else known.get(part)

    @property
    def selection(self) -> Selection:
        """The selection that is judged in detail."""
        return self.frontier.at(self.k)

    def chosen(self, sizes: Sequence[int]) -> np.ndarray:
        """Chosen indicators of the frontier's selections of these sizes."""
        return self.judge.rows([self.frontier.at(size).members for size in sizes])

    @property
    def tested(self) -> list[int]:
        """The sizes that are tested against controls."""
        return tested_sizes(self.frontier.sizes, self.level, self.k)

    @property
    def cost(self) -> float:
        """Cost of both parts of the problem so far."""
        own = self.problem.cost.forward_equivalents
        return own if self.judged_on == "training" else own + self.judge.problem.cost.forward_equivalents


def predict(
    problem: Problem,
    result: Frontier | AnySet,
    *,
    level: str = "quick",
    k: int | None = None,
    pairs: Pairs = "heldout",
    smallest_p: float | None = None,
    every_size: bool = False,
) -> EvaluationPlan:
    """Predict the steps and cost of an evaluation without running it: of the audit pairs nothing is known before.

    Args:
        problem: The problem that the result is of.
        result: A frontier or a set.
        level: ``quick``, ``standard`` or ``full``.
        k: Size that is judged in detail; None for the smallest with 90 % of the best effect.
        pairs: ``heldout`` or ``audit``.
        smallest_p: p-value that the random sets must be able to reach.
        every_size: Whether random sets test every size.
    """
    given = result_of(problem, result)
    first = given if isinstance(given, Frontier | Selection) else given[0]
    frontier = frontier_of(problem, first) if isinstance(first, Selection) else first
    case = case_of(problem, frontier, level=level, k=k, smallest_p=smallest_p, every_size=every_size)
    if pairs == "audit":
        case = replace(case, judge=Evaluator(case.judge.problem), judged_on="audit")
    return plan_of(case, level)


def case_of(
    problem: Problem,
    frontier: Frontier,
    *,
    level: str,
    k: int | None = None,
    pairs: Pairs = "heldout",
    smallest_p: float | None = None,
    every_size: bool = False,
    judge_pairs: JudgePairs = None,
    seed: int = 0,
) -> Case:
    """Everything settled before the first evaluation. Raises InputError, UnknownName."""
    _ = problem.direction  # where there is none that is said first
    if frontier.space.components != problem.space.components or frontier.mode != problem.mode:
        raise InputError(
            f"the result is of {frontier.space.outline} in mode {frontier.mode}, the problem of "
            f"{problem.space.outline} in mode {problem.mode}: evaluate it on the problem that it was found on"
        )
    limits = level_named(level)
    if every_size:
        limits = replace(limits, sizes=frontier.sizes[-1], every_size=True)
    judged, name, stored = _judged(problem, frontier, pairs, judge_pairs)
    judge = Evaluator(judged, fitting(stored, judged))
    training = judge if name == "training" else Evaluator(problem, fitting(frontier.effects, problem))
    chosen = (
        frontier.at(k).k if k is not None else frontier.enough().k if frontier.selections[0].effect is not None else 0
    )
    case = Case(
        problem=problem,
        frontier=frontier,
        judge=judge,
        training=training,
        judged_on=name,
        level=limits,
        chains=limits.chains,
        k=chosen or frontier.sizes[0],
        seed=seed,
    )
    return case if smallest_p is None else replace(case, chains=_chains(case, smallest_p))


def _judged(
    problem: Problem, frontier: Frontier, pairs: Pairs, judge_pairs: JudgePairs
) -> tuple[Problem, str, EffectTable | None]:
    """Return the pairs that judge, their name, and the stored effects."""
    if pairs not in get_args(Pairs):
        raise unknown("pairs", pairs, get_args(Pairs))
    if pairs == "audit":
        if problem.audit is None:
            raise InputError("there are no audit pairs: build the problem (or run the trace) with audit=0.2, say")
        return problem.audit, "audit", None
    heldout = problem.heldout
    if heldout is None:
        return problem, "training", frontier.effects
    judged = heldout if judge_pairs is None else problem.heldout_of(judge_pairs)
    assert judged is not None, "something is held out"
    return judged, "held-out", frontier.effects_heldout


def fitting(stored: EffectTable | None, problem: Problem) -> EffectTable | None:
    """Effects of as many pairs as the problem has; ``belonging`` finds out whether they are of these pairs."""
    return stored if stored is not None and len(stored) and stored.effects.shape[1] == problem.size else None


def _chains(case: Case, smallest_p: float) -> int:
    """Return the controls that this p-value needs. Raises InputError where there are not so many sets to draw."""
    if not 0 < smallest_p < 1:
        raise InputError(f"smallest_p is {smallest_p}: give a p-value between 0 and 1")
    needed = controls_needed(smallest_p)
    _, blocks = random_sets.composition(case.problem.space, case.chosen([case.k]), 0)
    there = random_sets.distinct(blocks, case.chosen([case.k])[0])
    if there < needed + 1:
        raise InputError(
            f"a p-value of {smallest_p:g} needs {needed} controls, and only {there} sets are composed like the "
            f"selection of {case.k}: choose another k, or accept 1/{there}"
        )
    return max(case.level.chains, needed)


def result_of(problem: Problem, result: Any) -> Frontier | Selection | Sequence[Frontier]:
    """A result as it is; names or a mask as a Selection of the problem's components. Raises InputError."""
    if isinstance(result, list | tuple) and not result:
        raise InputError("there is no result to judge: give a frontier, several, or a set")
    several = isinstance(result, list | tuple) and all(isinstance(one, Frontier) for one in result)
    if isinstance(result, Frontier | Selection) or several:
        return result  # type: ignore[no-any-return]
    return selection_of("evaluate", result, problem.space, problem.mode)


def frontier_of(problem: Problem, selection: Selection) -> Frontier:
    """One selection as a frontier of one size. Raises InputError for the empty one."""
    if not selection.members:
        raise InputError("the selection is empty: there is nothing to judge")
    members = tuple(problem.space[i] for i in problem.space.indices(selection.members))
    return Frontier(
        search="given",
        mode=problem.mode,
        direction=problem.direction,
        metric=problem.metric,
        task=problem.task,
        **problem.question,
        space=problem.space,
        selections=(replace(selection, members=members),),
        forward_equivalents=0.0,
        full_effect=float("nan"),
    )


def plan_of(case: Case, name: str) -> EvaluationPlan:
    """Return the plan and cost of this case."""
    singles = case.training.knows_singles
    sizes = case.frontier.sizes
    stored = case.judge.unknown(case.chosen(sizes)) == 0
    level = replace(case.level, chains=case.chains)
    unknown = case.judge.problem.surrogate and case.known_level(case.judged_on) is None
    return plan(
        name,
        level,
        n=case.judge.n,
        k=case.k,
        sizes=sizes,
        stored=stored,
        singles=singles,
        checks=checks(case),
        levels=int(unknown),
    )


def checks(case: Case) -> int:
    """How many sets are measured again to find out whether the stored effects are of this problem."""
    tables = {id(judge): judge.stored for judge in (case.judge, case.training)}
    found = sum(table is not None and not is_of(table, case.problem) for table in tables.values())
    return found + (case.training.stored is None and case.selection.effect is not None)
