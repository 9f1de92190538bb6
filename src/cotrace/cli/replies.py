"""Replies of ``--json``: one pydantic model for each command, which is its documented schema too.

``cotrace schema`` prints their JSON Schemas, and docs/json.md lists their fields. A reply that does not fit its model
is never printed. Fields are only ever added within one number of ``schema``.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from cotrace.components import Direction, Mode
from cotrace.evaluation import CrossFit
from cotrace.evaluation.measured import Row
from cotrace.evaluation.setup import Step
from cotrace.problem.divided import Plan
from cotrace.results.outcomes import Outcome
from cotrace.runs.difference import Agreement, Change, PairedEffects
from cotrace.runs.verification import Recomputed
from cotrace.selfcheck.finding import Finding
from cotrace.text.escape import visible_in

Files: TypeAlias = dict[str, str]
Numbers: TypeAlias = tuple[float, float]


class Reply(BaseModel):
    """The field that every reply has."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True)

    version: Annotated[Literal[1], Field(alias="schema")] = 1
    """Number of the form; it changes where a field goes or means something else."""


class Chosen(BaseModel):
    """A selection."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    search: str
    k: int
    components: list[str]
    effect: float | None
    effect_heldout: float | None
    interval: Numbers | None
    p_value: float | None
    median_heldout: float | None
    moved_share: float | None
    forward_equivalents: float | None
    reported: float | None
    reported_heldout: float | None
    side: list[float] | None
    side_heldout: list[float] | None


class FrontierRow(BaseModel):
    """One row of frontier.csv; figures not computed are null."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    search: str
    k: int
    effect: float | None
    effect_heldout: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    forward_equivalents: float | None
    components: list[str]
    reported_before: float | None
    reported: float | None
    reported_before_heldout: float | None
    reported_heldout: float | None


class RunReply(Reply):
    """A finished run: trace, compare, demo, resume."""

    run: str
    """The run's folder."""
    files: Files
    """Name -> path of every file written."""
    summary: str
    """The question in words, with the full swap."""
    task: str
    metric: str
    mode: Mode
    direction: Direction
    full_effect: float
    """Effect of everything together on the training pairs."""
    full_effect_heldout: float | None
    full_is_clear: bool
    reported_before: float | None
    reported_before_heldout: float | None
    chosen: Chosen
    """The smallest selection of the first search with 90 % of its best effect."""
    frontier: list[FrontierRow]
    verdict: list[str]


class PlanReply(Reply):
    """``--dry-run`` of trace and compare: the plan and its cost."""

    summary: str
    plan: Plan
    predicted_forward_equivalents: dict[str, float]
    """Search -> cost."""
    predicted_evaluation: float
    """Forward-equivalents of judging the result, at most."""
    predicted_seconds: float
    """Within 50 %."""


class EvaluationPlanReply(Reply):
    """``--dry-run`` of evaluate."""

    level: str
    steps: list[Step]


class EvaluationReply(Reply):
    """evaluate."""

    written: str
    evaluation: dict[str, JsonValue]
    """The content of evaluation.json: the fields of ``ct.Evaluation``, and ``verdict``."""
    cross_fit: CrossFit | None = None


class MeasureReply(Reply):
    """measure: the fields of ``ct.measure``'s result."""

    model: str
    task: str
    metric: str
    rows: list[Row]
    soft: tuple[float, float | None] | None
    selection_rate_ratio: tuple[float | None, float | None] | None
    refused: list[tuple[str, str]]
    confidence: float


class CheckReply(Reply):
    """check: the fields of ``ct.CheckReport``."""

    model: str
    dtype: str
    sites: list[str]
    findings: list[Finding]
    layers: dict[str, list[int]]
    """Site -> the layers that were checked, of sites that were narrowed."""
    ok: bool


class TaskInfoReply(BaseModel):
    """One task of the list."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    about: str
    size: str
    metric: str
    splits: list[str]
    source: str
    licence: str
    data: str
    data_use: Literal["needed", "optional", "none"]


class TasksReply(Reply):
    """tasks."""

    tasks: list[TaskInfoReply]


class ShownTaskReply(Reply):
    """tasks show."""

    task: str
    metric: str
    score: str
    pairs: int
    shown: list[dict[str, JsonValue]]
    """The first pairs, as records of a JSON Lines file."""
    skipped: list[tuple[str, str]]
    """(record, reason)."""
    tokens: list[dict[str, str]]
    """The pairs as tokens of ``--model``."""


class WrittenReply(Reply):
    """report and figure: the file that was written."""

    written: str
    bytes: int


class ExportReply(Reply):
    """export: the file that was written, or its content where none is named."""

    format: str
    written: str | None
    content: str | None


class GenerateReply(Reply):
    """generate: the settings and the continuations."""

    written: str
    settings: dict[str, JsonValue]
    rows: list[dict[str, JsonValue]]
    """The rows of the file that was written."""


class EditReply(Reply):
    """edit: the folded set, its effect and its cost."""

    written: str
    k: int
    donor: str
    components: list[str]
    unseen: bool
    """Whether outcomes are of pairs that the search has not seen."""
    outcomes: list[Outcome]
    largest_difference: float
    """Between folded and hooked log-probabilities."""
    tradeoff: dict[str, JsonValue] | None
    """The edits that it was chosen among, as in tradeoff.json."""


class DiffReply(Reply):
    """diff."""

    changes: list[Change]
    agreements: list[Agreement]
    paired: list[PairedEffects]
    """The answers of both runs side by side."""
    only_one: list[str]
    same_bytes: bool
    agree: bool
    verdict: str


class VerifyReply(Reply):
    """verify."""

    files: int
    recomputed: list[Recomputed]
    elsewhere: list[str]
    outcome: Literal["same", "within tolerance", "different"]
    verdict: str


class CiteReply(Reply):
    """cite."""

    paragraph: str
    entries: list[str]
    """BibTeX."""


class TransferReply(Reply):
    """transfer."""

    targets: dict[str, dict[str, JsonValue]]
    """Target -> its figures, as ``ct.Transfer.to_dict`` has them."""


class ExplanationPlanReply(Reply):
    """explain --dry-run: the predicted cost."""

    components: list[str]
    pairs: str
    groups: int
    forward_equivalents: float


class ExplanationReply(Reply):
    """explain: what each member does, in words and in figures."""

    written: list[str]
    words: list[str]
    explanation: dict[str, JsonValue]
    """The content of explanation.json."""


class ReproductionReply(Reply):
    """reproduce: the page, and the folder of each setting."""

    written: str
    settings: dict[str, str]


class SweepReply(Reply):
    """sweep: the outcome of each cell, or with --dry-run its open work."""

    written: str | None
    """Folder of the campaign; null where nothing was run."""
    cells: list[dict[str, Any]]
    """The rows of ``summary.csv``: ``status`` is ``done``, or why there is no result; or ``to run``, ``to resume``."""


class OpenReply(Reply):
    """open."""

    report: str
    opened: bool
    """Whether a browser took it."""


REPLIES: dict[str, tuple[type[Reply], ...]] = {
    "demo": (RunReply,),
    "trace": (RunReply, PlanReply),
    "compare": (RunReply, PlanReply),
    "resume": (RunReply,),
    "sweep": (SweepReply,),
    "measure": (MeasureReply,),
    "check": (CheckReply,),
    "evaluate": (EvaluationReply, EvaluationPlanReply),
    "report": (WrittenReply,),
    "figure": (WrittenReply,),
    "open": (OpenReply,),
    "explain": (ExplanationReply, ExplanationPlanReply),
    "transfer": (TransferReply,),
    "reproduce": (ReproductionReply,),
    "generate": (GenerateReply,),
    "edit": (EditReply,),
    "export": (ExportReply,),
    "diff": (DiffReply,),
    "verify": (VerifyReply,),
    "cite": (CiteReply,),
    "tasks": (TasksReply,),
    "tasks show": (ShownTaskReply,),
}
"""Command -> the forms of its reply; the second is that of ``--dry-run``."""


def reply(command: str, data: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
    """The reply as plain data, after it was held against its form."""
    plain: dict[str, Any] = json.loads(json.dumps({"schema": 1, **data}, allow_nan=False))
    REPLIES[command][-1 if dry_run else 0].model_validate(visible_in(plain))
    return plain


def schemas(command: str | None = None) -> dict[str, Any]:
    """JSON Schema of the replies, by command. Raises UnknownName."""
    from cotrace.errors import unknown

    if command is not None and command not in REPLIES:
        raise unknown("command", command, REPLIES)
    asked = REPLIES if command is None else {command: REPLIES[command]}
    return {name: _schema(forms) for name, forms in asked.items()}


def _schema(forms: tuple[type[Reply], ...]) -> dict[str, Any]:
    found = [form.model_json_schema(mode="serialization") for form in forms]
    return found[0] if len(found) == 1 else {"anyOf": found}
