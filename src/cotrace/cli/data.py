"""What ``--json`` prints: a run, a plan or an evaluation as one JSON object for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cotrace.cli.dry_run import forecast_of
from cotrace.evaluation import CrossFit, Evaluation
from cotrace.results import Frontier
from cotrace.runs.added import read_evaluation
from cotrace.runs.directory import MANIFEST
from cotrace.runs.evidence import EVALUATION
from cotrace.runs.manifest import Manifest, holds
from cotrace.runs.prepare import Prepared
from cotrace.runs.results import enough
from cotrace.runs.stored import StoredRun


def run_data(folder: Path, files: Iterable[str], frontiers: Sequence[Frontier], found: Evaluation | None) -> Any:
    """A finished run: the rows of frontier.csv, the selection that is enough, the verdict, and the paths written."""
    first = frontiers[0]
    return {
        "run": str(folder),
        "files": {name: str(folder / name) for name in sorted(files)},
        "summary": first.summary,
        "task": first.task,
        "metric": first.metric,
        "mode": first.mode,
        "direction": first.direction,
        "full_effect": first.full_effect,
        "full_effect_heldout": first.full_effect_heldout,
        "full_is_clear": first.full_is_clear,
        "reported_before": first.reported_before,
        "reported_before_heldout": first.reported_before_heldout,
        "chosen": {"search": first.search, **enough(first).to_dict()},
        "frontier": [row | {"components": row["components"].split()} for one in frontiers for row in one.rows()],
        "verdict": [] if found is None else list(found.verdict),
    }


def stored_data(folder: Path) -> Any:
    """The same of a run that is finished already."""
    stored = StoredRun.read(folder)
    found = read_evaluation(folder / EVALUATION) if holds(folder, EVALUATION) else None
    return run_data(folder, [*Manifest.read(folder).files, MANIFEST], stored.frontiers, found)


def plan_data(prepared: Prepared) -> Any:
    """What a run would do and cost."""
    plan, found = prepared.problem.plan, forecast_of(prepared)
    cost = {name: search.forward_equivalents for name, search in found.searches.items()}
    return {
        "summary": prepared.goal.summary,
        "plan": asdict(plan),
        "predicted_forward_equivalents": cost,
        "predicted_evaluation": found.evaluation,
        "predicted_seconds": found.seconds,
    }


def evaluation_data(path: Path, found: Evaluation, folds: CrossFit | None) -> Any:
    """An evaluation, where it was written, and cross-fitting where it was asked for."""
    fitted = {} if folds is None else {"cross_fit": asdict(folds)}
    return {"written": str(path), "evaluation": found.to_dict()} | fitted
