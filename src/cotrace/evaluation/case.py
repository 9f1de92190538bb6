"""Case: what is judged, on which pairs, how far, and what that will cost; settled before the first evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from cotrace.errors import InputError, unknown
from cotrace.evaluation import controls as random_sets
from cotrace.evaluation.levels import EvaluationPlan, Level, level_named, plan, tested_sizes
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import JudgePairs, Problem
from cotrace.results import AnySet, Frontier, Selection, selection_of
from cotrace.results.effects import EffectTable
from cotrace.search.driver import reported_base
from cotrace.search.origin import is_of
from cotrace.statistics import controls_needed

Pairs = Literal["heldout", "audit"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is judged, on which pairs, and how far."""

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
        """What both parts of the problem have spent so far."""
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
    """What an evaluation would do and cost, without doing it: of the audit pairs nothing is known before."""
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
    """The pairs that judge, their name, and what is known of them already."""
    if pairs not in get_args(Pairs):
        raise unknown("pairs", pairs, get_args(Pairs))
    if pairs == "audit":
        sealed: Problem | None = getattr(problem, "audit", None)
        if sealed is None:
            raise InputError("there are no audit pairs: build the problem (or run the trace) with audit=0.2, say")
        return sealed, "audit", None
    if problem.heldout is not None:
        return _heldout(problem, judge_pairs), "held-out", frontier.effects_heldout
    return problem, "training", frontier.effects


def _heldout(problem: Problem, judge_pairs: JudgePairs) -> Problem:
    """The held-out pairs that judge: those of the problem, unless told. Raises InputError."""
    drawn = getattr(problem, "heldout_of", None)
    if judge_pairs is not None and drawn is None:
        raise InputError(
            f"judge_pairs={judge_pairs}: the pairs that judge {problem.task} are settled where it is made; give "
            "judge_pairs to each LanguageProblem that it is made of"
        )
    found: Problem | None = problem.heldout if judge_pairs is None or drawn is None else drawn(judge_pairs)
    assert found is not None, "something is held out"
    return found


def fitting(stored: EffectTable | None, problem: Problem) -> EffectTable | None:
    """Effects of as many pairs as the problem has; ``belonging`` finds out whether they are of these pairs."""
    return stored if stored is not None and len(stored) and stored.effects.shape[1] == problem.size else None


def _chains(case: Case, smallest_p: float) -> int:
    """As many controls as this p-value needs. Raises InputError where there are not so many sets to draw."""
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
        **getattr(problem, "question", {}),
        space=problem.space,
        selections=(replace(selection, members=members),),
        forward_equivalents=0.0,
        full_effect=float("nan"),
    )


def plan_of(case: Case, name: str) -> EvaluationPlan:
    """What this case will do and cost."""
    singles = case.training.knows_singles
    sizes = case.frontier.sizes
    stored = case.judge.unknown(case.chosen(sizes)) == 0
    level = replace(case.level, chains=case.chains)
    unknown = reported_base(case.judge.problem) is not None and case.known_level(case.judged_on) is None
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
