"""A finished run on disk: everything is made in memory before the first file is written."""

from __future__ import annotations

from collections.abc import Sequence

from cotrace.evaluation import Evaluation
from cotrace.results import Frontier
from cotrace.runs.config_file import write_config
from cotrace.runs.evidence import EFFECTS, EVALUATION, effects_safetensors, evaluation_json
from cotrace.runs.prepare import Prepared
from cotrace.runs.record import record
from cotrace.runs.results import Step, frontier_csv, history_csv, masks_safetensors, selection_json


def run_files(
    prepared: Prepared, frontiers: Sequence[Frontier], steps: Sequence[Step], evaluation: Evaluation | None = None
) -> dict[str, bytes]:
    """Name -> content of the files of a run, figures aside."""
    judged = {} if evaluation is None else {EVALUATION: evaluation_json(evaluation)}
    return judged | {
        "config.yaml": write_config(prepared.config, record(prepared)),
        "history.csv": history_csv(steps),
        EFFECTS: effects_safetensors(frontiers),
        "masks.safetensors": masks_safetensors(frontiers),
        "selection.json": selection_json(frontiers),
        "frontier.csv": frontier_csv(frontiers),
    }
