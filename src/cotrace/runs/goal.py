"""Goals of a run: constraints and further questions, as the command line and config.yaml name them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cotrace import tasks
from cotrace.errors import InputError
from cotrace.metrics import Answers, metric_named
from cotrace.problem import Constrained, Constraint, LanguageProblem, Problem, WeightedSum, side_problem
from cotrace.prompts import Task
from cotrace.runs.config import RunConfig
from cotrace.tasks.catalogue import is_file

NEUTRAL, OWN = "neutral", "own"
"""The neutral text that suits the model, and the run's own task."""
SIDES: dict[str, Literal["above", "below", "both"]] = {"<=": "above", ">=-": "below", "+-": "both"}
_BOUND = re.compile(
    r"(?P<task>[^:<>]+?)(:(?P<metric>\w+))?\s*(?P<sign><=|>=-|\+-)\s*(?P<amount>\d+(\.\d+)?)(?P<percent>%?)"
)
_TERM = re.compile(r"(?P<weight>\d+(\.\d+)?)\*(?P<task>[^:]+?)(:(?P<metric>\w+))?(:(?P<direction>maximise|minimise))?")


@dataclass(frozen=True)
class Side:
    """Another question over the same components; its data are read, no model is."""

    words: str
    """The bound as it was typed."""
    task: Task
    suits: bool
    """Whether the task is the neutral text, of those that ship, that the model knows better."""
    metric: str
    amount: float
    """The bound, or the weight."""
    percent: bool = False
    sign: str = "<="
    direction: str | None = None


def sides_of(config: RunConfig, own: Task) -> tuple[list[Side], list[Side]]:
    """The constraints and the further questions of a run, read and checked before a model is. Raises InputError."""
    bounds = [_side(words, _matched("constraint", _BOUND, words), own) for words in config.constraints]
    return bounds, [_side(words, _matched("plus", _TERM, words), own) for words in config.plus]


def _matched(field: str, pattern: re.Pattern[str], words: str) -> dict[str, str | None]:
    found = pattern.fullmatch(words.strip())
    if found is None:
        forms = {
            "constraint": "TASK:METRIC<=AMOUNT (may rise), TASK>=-AMOUNT (may fall) or TASK+-AMOUNT (either), as in "
            "neutral<=1% or demo_agreement:accuracy+-0.01",
            "plus": "WEIGHT*TASK:METRIC, as in 0.5*demo_agreement:accuracy, with :maximise or :minimise behind it",
        }
        raise InputError(f"{field} {words!r}: write {forms[field]}")
    return found.groupdict()


def _side(words: str, found: dict[str, str | None], own: Task) -> Side:
    name, amount = str(found["task"]).strip(), float(found.get("amount") or found.get("weight") or 0)
    if not amount:
        raise InputError(f"{words}: the number must be above 0")
    task = own if name == OWN else tasks.load("text" if name == NEUTRAL else name)
    metric = found["metric"] or task.metric
    metric_named(metric).check(Answers.of(task.pairs, torch.float64))
    percent, sign, direction = bool(found.get("percent")), found.get("sign") or "<=", found.get("direction")
    return Side(words, task, name == NEUTRAL, metric, amount, percent, sign, direction)


def located(words: str) -> str:
    """The same with a file's path that holds from any working folder."""
    pattern = _BOUND if _BOUND.fullmatch(words.strip()) else _TERM
    found = pattern.fullmatch(words.strip())
    if found is None or not is_file(found["task"]) or not Path(found["task"]).exists():
        return words
    return words.replace(found["task"], str(Path(found["task"]).resolve()), 1)


def goal_of(config: RunConfig, problem: LanguageProblem, sides: tuple[Sequence[Side], Sequence[Side]]) -> Problem:
    """The problem itself, or with further questions summed to it, or within constraints. Raises CotraceError."""
    bounds, terms = sides
    goal: Problem = problem
    if terms:
        goal = WeightedSum([(1.0, problem), *((term.amount, _term(config, problem, term)) for term in terms)])
    return Constrained(goal, [_constraint(config, problem, bound) for bound in bounds]) if bounds else goal


def _term(config: RunConfig, problem: LanguageProblem, term: Side) -> LanguageProblem:
    asked = config.problem(problem.model, term.task) | {"sites": problem.space, "layers": None}
    asked |= {"metric": term.metric, "direction": term.direction, "search_pairs": None, "judge_pairs": None}
    if term.task is not problem.source_task:
        asked |= {"donors": None, "positions": "prompt", "align": "exact"}
    return LanguageProblem(**asked | problem.manner)


def _constraint(config: RunConfig, problem: LanguageProblem, bound: Side) -> Constraint:
    task = tasks.text(model=problem.model) if bound.suits else bound.task
    side = side_problem(problem, task, metric=bound.metric, holdout=config.holdout, seed=config.seed)
    return Constraint(side, eps_of(bound, side), sides=SIDES[bound.sign])


def eps_of(bound: Side, side: LanguageProblem) -> float:
    """The bound on the effect: per cent are of perplexity for a loss, else of the level before."""
    if not bound.percent:
        return bound.amount
    if bound.metric == "nll":
        return math.log1p(bound.amount / 100)
    level: float = abs(side.reported_base)
    if not level:
        raise InputError(f"{bound.words}: the level before is 0, of which there are no per cent; give the amount")
    return level * bound.amount / 100
