"""``ct.report.write``: the report of a frontier, with whatever else is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cotrace.errors import InputError
from cotrace.report.page import ReportInputs, examples_of, plain_of, report_html
from cotrace.results import Frontier, Tradeoff
from cotrace.validation import check_kind

if TYPE_CHECKING:
    from cotrace.evaluation import Evaluation
    from cotrace.problem import LanguageProblem
    from cotrace.readout import Explanation


def write(
    frontier: Frontier | Sequence[Frontier],
    path: str | Path,
    *,
    problem: LanguageProblem | None = None,
    evaluation: Evaluation | None = None,
    tradeoff: Tradeoff | None = None,
    explanation: Explanation | None = None,
    redact: bool = False,
    language: str = "en",
) -> Path:
    """Write ``report.html``: one file that loads nothing from anywhere. Of several frontiers the first is in detail.

    With the problem the pairs' texts are shown (ids alone where ``redact``), with an evaluation the verdict, with a
    trade-off the edits, with an explanation what the members do. ``language`` is that of the first screen: en or de.
    Raises UnknownName, InputError where the frontiers answer different questions, or the path is no place for a file.

    Args:
        frontier: The frontier, or several of one question.
        tradeoff: Edits, from ``ct.editing.tradeoff``; None for none.
    """
    check_kind("ct.report.write", "frontier", frontier, Frontier | Sequence[Frontier])
    check_kind("ct.report.write", "path", path, str | Path)
    inputs = ReportInputs(
        (frontier,) if isinstance(frontier, Frontier) else tuple(frontier),
        evaluations=() if evaluation is None else (evaluation,),
        examples=None if problem is None else examples_of(problem),
        tradeoff=tradeoff,
        explanation=explanation,
        redact=redact,
        language=language,
    )
    if problem is not None:
        inputs = replace(inputs, plain=plain_of(problem, inputs.first, inputs.chosen))
    content = report_html(inputs)
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; give a file in a folder that exists"
        ) from None
    return Path(path)
