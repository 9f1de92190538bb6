"""MIB: the circuit track's tasks (IOI, arithmetic, MCQA, ARC) in their published form.

Mueller et al. 2025, *MIB: A Mechanistic Interpretability Benchmark* (arXiv 2504.13151). Rows of the hub's ``mib-bench``
datasets, saved as JSON Lines (``dataset.to_json``). Which task they are is told by their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cotrace.errors import InputError, unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks._files import TaskInfo
from cotrace.text.files import parse_json, read_text
from cotrace.validation import checked


class Form(NamedTuple):
    """The fields that mark a task's rows, and the counterfactual that its circuits are judged by."""

    field: str
    counterfactual: str


FORMS: Mapping[str, Form] = {
    "ioi": Form("metadata", "s2_io_flip_counterfactual"),
    "arithmetic": Form("operator", "random_counterfactual"),
    "choice": Form("answerKey", "symbol_counterfactual"),
}
"""Kind of rows -> their form; ``choice`` is MCQA and both parts of ARC."""


@checked("ct.tasks.mib")
def mib(path: str | Path, *, counterfactual: str | None = None, operator: str | None = None) -> Task:
    """Rows of one MIB task as pairs, judged by the logit difference, as its circuits are.

    Answers are tokens of their own, as MIB takes them (``encoding="alone"``): the right one first, then that of the
    counterfactual. ``counterfactual`` names another of the rows' counterfactuals (default: the one that MIB's own
    evaluation takes); ``operator`` keeps one kind of arithmetic, ``+`` or ``-``. Rows without that counterfactual are
    listed in ``skipped``. Raises InputError.

    Args:
        path: JSON Lines of one data set.
    """
    rows = _rows(Path(path))
    kind = _kind(rows[0], str(path))
    column = counterfactual or FORMS[kind].counterfactual
    pairs, skipped = [], []
    for number, row in enumerate(rows, start=1):
        if operator is not None and row.get("operator") != operator:
            continue
        try:
            pairs.append(_pair(row, kind, column, number))
        except (KeyError, TypeError, IndexError) as error:
            skipped.append((f"row {number}", f"it has no usable {column} ({type(error).__name__}: {error})"))
    if not pairs:
        known = sorted(name for name in rows[0] if name.endswith("_counterfactual"))
        if counterfactual is not None and counterfactual not in known:
            raise unknown("counterfactual", counterfactual, known)
        raise InputError(f"{path}: no row has a usable {column}" + (f" and operator {operator}" if operator else ""))
    return Task(
        name=f"mib_{Path(path).stem}",
        pairs=tuple(pairs),
        metric="logit_diff",
        encoding="alone",
        skipped=tuple(skipped),
        source=f"MIB, {Path(path).name}",
    )


def _rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a JSON Lines file, or of a JSON list."""
    text = read_text(path)
    if path.suffix == ".json" and text.lstrip().startswith("["):
        found = parse_json(text, str(path))
    else:
        lines = enumerate(text.splitlines(), start=1)
        found = [parse_json(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if not found or not all(isinstance(row, Mapping) for row in found):
        raise InputError(f"{path} holds no rows of a MIB task: save one with dataset.to_json(PATH)")
    return list(found)


def _kind(row: Mapping[str, Any], where: str) -> str:
    for kind, form in FORMS.items():
        if form.field in row and any(name.endswith("_counterfactual") for name in row):
            return kind
    raise InputError(
        f"{where}: its rows are of no MIB task: they have {', '.join(sorted(row)) or 'no field'}; expected is 'prompt' "
        "with 'metadata' (IOI), 'operator' (arithmetic) or 'answerKey' (MCQA, ARC), and counterfactuals"
    )


def _pair(row: Mapping[str, Any], kind: str, column: str, number: int) -> PromptPair:
    other = row[column]
    if kind == "ioi":
        names = row["metadata"]
        answers = f" {names['indirect_object']}", f" {names['subject']}"
    elif kind == "arithmetic":
        answers = str(row["label"]), str(other["label"])
    else:
        answers = _choice(row), _choice(other)
    if answers[0] == answers[1]:
        raise KeyError("both answers are the same")
    return PromptPair(
        id=str(row.get("id", f"{number:05d}")),
        base=str(row["prompt"]),
        counterfactual=str(other["prompt"]),
        answers=answers,
        target=0,
        group=str(row.get("operator") or kind),
    )


def _choice(row: Mapping[str, Any]) -> str:
    """The label of the right choice."""
    return str(row["choices"]["label"][row["answerKey"]])


INFO = TaskInfo(
    name="mib",
    about="the circuit track's tasks: indirect objects, arithmetic, multiple choice, ARC",
    source="MIB, Mueller et al. 2025, arXiv 2504.13151",
    licence="as each of its data sets",
    size="a row each",
    metric="logit_diff",
    data="rows of one of the hub's mib-bench data sets, as JSON Lines (dataset.to_json)",
    data_use="needed",
    load=mib,
)
