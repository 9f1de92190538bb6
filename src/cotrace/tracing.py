"""``trace``: from a model and a task to a frontier, in one line."""

from __future__ import annotations

from typing import Any

from cotrace.errors import CotraceError
from cotrace.evaluation import applied, evaluate
from cotrace.evaluation.setup import level_named
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.results import Frontier
from cotrace.search import named
from cotrace.search.progress import Shown
from cotrace.selfcheck import ensure
from cotrace.text.progress_bar import stepping, warn
from cotrace.validation import checked


@checked("ct.trace", LanguageProblem)
def trace(
    model: LanguageModel,
    task: Task,
    *,
    search: str = "pursuit",
    max_size: int | None = None,
    search_options: dict[str, Any] | None = None,
    evaluation: str = "quick",
    progress: Shown = None,
    **problem_options: Any,
) -> Frontier:
    """Search for the best set of every size up to ``max_size``; further keywords are those of ``LanguageProblem``.

    The selections carry intervals and p-values of a ``quick`` evaluation, at most 143 forward-equivalents more;
    ``none`` leaves them out, and ``ct.evaluate`` says more. What cannot be judged is warned about.
    ``progress`` shows a bar (True; by default in terminals and notebooks), or is called after every step.

    Args:
        model: The model, from ``load_model`` or ``wrap``.
        task: The prompt pairs.
        search: Name of the search, such as ``pursuit`` or ``greedy``.
        search_options: Hyperparameters of the search; None for its defaults.
        evaluation: ``quick``, ``standard``, ``full``, or ``none``.
        problem_options: Keywords of ``LanguageProblem``, such as ``sites`` or ``holdout``.
    """
    sized = {} if max_size is None else {"max_size": max_size}  # pgbct has none: its penalties decide
    chosen = named(search, **sized, **(search_options or {}))
    if evaluation != "none":
        level_named(evaluation)  # a wrong name is said before the search is paid for
    with stepping("trace", False if callable(progress) else progress) as step:
        step("donor values and base scores", 0, 2)
        problem = LanguageProblem(model, task, **problem_options)
        _ = problem.direction  # where there is none that is said before anything is searched
        step("whether patches are right on this model", 1, 2)
        ensure(problem.model, problem.space.sites)
    found = chosen(problem, progress)
    if evaluation == "none":
        return found
    try:
        return applied(found, evaluate(problem, found, level=evaluation))
    except CotraceError as error:
        warn(f"the result could not be judged: {error}", UserWarning)
        return found
