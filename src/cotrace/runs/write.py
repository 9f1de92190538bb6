"""A finished run on disk: every result is made in memory before the first of them is written."""

from __future__ import annotations

from collections.abc import Sequence

from cotrace.evaluation import Evaluation
from cotrace.results import Frontier
from cotrace.runs.evidence import EFFECTS, EVALUATION, effects_safetensors, evaluation_json
from cotrace.runs.results import Step, frontier_csv, history_csv, masks_safetensors, selection_json


def run_files(
    frontiers: Sequence[Frontier], steps: Sequence[Step], evaluation: Evaluation | None = None
) -> dict[str, bytes]:
    """Name -> content of the files of a run, figures and config.yaml aside."""
    judged = {} if evaluation is None else {EVALUATION: evaluation_json(evaluation)}
    return judged | {
        "history.csv": history_csv(steps),
        EFFECTS: effects_safetensors(frontiers),
        "masks.safetensors": masks_safetensors(frontiers),
        "selection.json": selection_json(frontiers),
        "frontier.csv": frontier_csv(frontiers),
    }
