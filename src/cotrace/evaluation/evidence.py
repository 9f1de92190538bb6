"""``ct.evaluate``: a result judged on its problem, with the side problems that a language model's has by default."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cotrace import tasks
from cotrace.errors import CotraceError, InputError
from cotrace.evaluation import ALTERNATIVES, Evaluation, Foreign, alternatives_searched, search_again, with_verdict
from cotrace.evaluation import evaluate as judge
from cotrace.evaluation.evaluate import Progress, settled
from cotrace.evaluation.published import belonging
from cotrace.evaluation.setup import Pairs, result_of
from cotrace.evaluation.stability import check_divisible
from cotrace.interchange.circuits import Circuit
from cotrace.problem import LanguageProblem
from cotrace.problem.goals import language_problems, loss_before, side_problem, unknown_text
from cotrace.problem.protocol import JudgePairs, Problem
from cotrace.prompts import Task
from cotrace.results import AnySet, Frontier, Selection
from cotrace.search import Search
from cotrace.validation import check_kind, check_seed, checked

NEUTRAL_LINES = 60
"""Lines of the neutral text that are read."""
UNAFFECTED = 0.05
"""Share of the mean full-swap effect below which a pair counts as unaffected."""
FEWEST_UNAFFECTED = 8

Sets = Mapping[str, Selection | Circuit]


@checked("ct.evaluate")
def evaluate(
    problem: Problem,
    result: Frontier | Sequence[Frontier] | AnySet,
    *,
    level: str = "quick",
    k: int | None = None,
    pairs: Pairs = "heldout",
    against: Sets | Circuit | Selection | None = None,
    text: str | Path | None = None,
    side: Sequence[Problem | Task] = (),
    stability: int = 0,
    search: Search | None = None,
    intervals: bool = False,
    smallest_p: float | None = None,
    every_size: bool = False,
    judge_pairs: JudgePairs = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """How sure is this result: a frontier, several, or a set (a Selection, component names, or a mask of 0 and 1 [n])?

    ``level`` is ``quick``, ``standard`` or ``full``; ``print`` it for the verdict.

    ``against`` names sets of somebody else's. Above ``quick`` a language problem is also judged by a neutral text
    (``text``: your own file) and by the accuracy on pairs that the full swap leaves alone; ``side`` adds tasks or
    problems. ``stability`` searches again so many times with ``search``; ``every_size`` tests every size;
    ``intervals`` makes too few pairs for them an error. ``judge_pairs`` (a number, ``"all"``) judges on other held-out
    pairs than those that the problem was built with, which are 1,000 at most unless it was told.
    Raises InputError.

    Args:
        problem: The problem that the result is of, with held-out pairs or without.
        k: Size that is judged in detail; None for the smallest with 90 % of the best effect on the pairs searched.
        pairs: ``heldout``, or ``audit`` (once).
        smallest_p: p-value that the random sets must be able to reach; None for as many as the level has.
        seed: Seed of resamples, random sets and drawn pairs.
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
    check_seed("ct.evaluate", seed)
    result = result_of(problem, result)
    if stability < 0:
        raise InputError(f"ct.evaluate: stability is {stability}; give the number of searches, at least 0")
    if stability and search is None:
        raise InputError("ct.evaluate: stability searches again: give search=ct.search.Pursuit(), say, or leave it out")
    if stability:
        check_divisible(problem, "stability")
    others = _foreign(problem, against)
    settled(problem, result, intervals=intervals, **asked)
    problems, notes = _sides(problem, level, text, side)
    notes += filter(None, map(unknown_text, problems))
    found = judge(
        problem,
        result,
        foreign=others,
        side=problems,
        intervals=intervals,
        progress=progress,
        **asked,
    )
    if stability and search is not None:
        found = _searched_again(problem, result, found, search, stability, pairs, seed, progress)
    effects = tuple(replace(row, before=loss_before(p)) for row, p in zip(found.side_effects, problems, strict=True))
    return with_verdict(replace(found, notes=(*found.notes, *notes), side_effects=effects))


def _foreign(problem: Problem, against: Sets | Circuit | Selection | None) -> list[Foreign]:
    if against is None:
        return []
    if isinstance(against, Mapping):
        return [_one(problem, name, each) for name, each in against.items()]
    return [_one(problem, against.name if isinstance(against, Circuit) else "given set", against)]


def _one(problem: Problem, name: str, given: Selection | Circuit) -> Foreign:
    check_kind("ct.evaluate", f"against[{name!r}]", given, Selection | Circuit)
    if isinstance(given, Circuit):
        for one in language_problems(problem):
            given.check(one.model.name, one.model.module.config)
    return Foreign(name, given.members, given.roles if isinstance(given, Circuit) else None)


def _sides(
    problem: Problem, level: str, text: str | Path | None, side: Sequence[Problem | Task]
) -> tuple[list[Problem], list[str]]:
    """Problems where nothing should change, and why some of those that nobody named could not be had.

    Raises CotraceError for a text or a task that was named and cannot be used.
    """
    own = next(iter(language_problems(problem)), None)  # of a sum or a constraint the first, whose space all share
    if text is not None and own is None:
        raise InputError("text: a neutral text is read by a language model; leave it out for another problem")
    notes: list[str] = []
    found = [_second(own, each) for each in side]
    makers: list[Callable[[], Problem]] = []
    if text is not None and own is not None:
        found.append(_quietly(lambda: neutral(own, text)))
    if isinstance(problem, LanguageProblem) and level != "quick":
        makers += [lambda: neutral(problem)] if text is None else []
        makers.append(lambda: unaffected(problem))
    for make in makers:  # what was not asked for by name, and may not be had
        try:
            found.append(_quietly(make))
        except CotraceError as error:
            notes.append(f"a side effect could not be measured: {error}")
    return found, notes


def _quietly(make: Callable[[], Problem]) -> Problem:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # refused lines of a side text are no news
        return make()


def _second(problem: LanguageProblem | None, side: Problem | Task) -> Problem:
    if not isinstance(side, Task):
        return side
    if problem is None:
        raise InputError(
            f"side: task {side.name} is asked of a language model; pose it with ct.side_problem(...) first"
        )
    return _quietly(lambda: side_problem(problem, side, holdout=0))


def neutral(problem: LanguageProblem, text: str | Path | None = None) -> LanguageProblem:
    """Next-token loss on a neutral text: unless one is named that of the two that ship which the model knows better.

    Raises InputError, also where the model's tokenizer has no tokens for it.
    """
    task = tasks.text(text, most=NEUTRAL_LINES, model=problem.model)
    try:
        problem.model.require_tokenizer()([pair.base + pair.answers[0] for pair in task.pairs])
    except Exception as error:  # a tokenizer without a token for unknown words raises no class of its own
        raise InputError(f"the model's tokenizer cannot read the neutral text ({error}): name another text") from None
    return side_problem(problem, task, holdout=0)


def unaffected(problem: LanguageProblem) -> LanguageProblem:
    """Accuracy on the pairs whose metric the full swap moves by next to nothing, none of them searched where it can be.

    Raises InputError where there are too few.
    """
    part = problem.heldout or problem
    ids = problem.training.ids if problem.heldout is None else problem.heldout.ids
    moved = part.effects(torch.ones(len(problem.space))).abs().double().cpu().numpy()
    still = {name for name, change in zip(ids, moved, strict=True) if change < UNAFFECTED * np.abs(moved).mean()}
    if len(still) < FEWEST_UNAFFECTED:
        raise InputError(
            f"accuracy on unaffected pairs needs at least {FEWEST_UNAFFECTED} pairs that the full swap leaves alone, "
            f"and there are {len(still)}"
        )
    task: Task = problem.source_task
    some = replace(task, name=f"{task.name}, unaffected pairs", pairs=tuple(p for p in task.pairs if p.id in still))
    return side_problem(problem, some, metric="accuracy", holdout=0)


def _searched_again(
    problem: Problem,
    result: Frontier | Selection | Sequence[Frontier],
    found: Evaluation,
    search: Search,
    runs: int,
    pairs: Pairs,
    seed: int,
    progress: Progress | None,
) -> Evaluation:
    case, _ = settled(problem, result, level=found.level, k=found.k, pairs=pairs)
    before, others = case.cost, found.alternatives
    again = search_again(problem, search, found.k, runs, seed=seed, progress=progress)
    if not isinstance(result, Selection):
        case = belonging(case)
        chosen = case.chosen([case.k])[0]
        others += tuple(alternatives_searched(problem, case.judge, search, chosen, min(runs, ALTERNATIVES)))
    spent = found.forward_equivalents + case.cost - before
    return with_verdict(
        replace(found, stability=(*found.stability, again), alternatives=others, forward_equivalents=spent)
    )
