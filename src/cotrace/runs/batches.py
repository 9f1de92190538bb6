"""The batch plan of a run: kept with its checkpoints and in its record, and repeated by whoever resumes or replays it.

Sums over other batches differ in their last digits, so a run whose batches were halved is cut at the same places again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotrace.problem.language import LanguageProblem
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import read_config, read_record, read_run_config, write_config
from cotrace.runs.directory import CONFIG, write_atomically
from cotrace.runs.identity import identity
from cotrace.runs.prepare import settled

BATCH_PLAN = "batch_plan"
"""Key of the record."""


def usable(plan: Mapping[str, Any] | None, config: RunConfig) -> Mapping[str, Any] | None:
    """The plan, unless the configuration asks for batches of another size."""
    other = plan is not None and config.batch_tokens not in (None, plan.get("batch_tokens"))
    return None if other else plan


def replayed(path: Path | None, config: RunConfig, searches: Sequence[str]) -> Mapping[str, Any] | None:
    """The plan in a stored config.yaml, where it was made for this very question. Raises InputError."""
    if path is None:
        return None
    same = identity(read_config(path)) == identity(settled(config, searches))
    return usable(planned(read_record(path)), config) if same else None


def planned(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The plan in a run's record, where it holds one."""
    plan = record.get(BATCH_PLAN)
    return plan if isinstance(plan, Mapping) else None


def note(folder: Path, problem: LanguageProblem) -> str | None:
    """Put the changes that came on the way into the record of the run; says them, where there were any."""
    config, record = read_run_config(folder)
    plan = problem.batch_plan
    if record[BATCH_PLAN].get("events") != plan["events"]:
        changed = dict(record) | {BATCH_PLAN: dict(record[BATCH_PLAN]) | plan}
        write_atomically(folder / CONFIG, write_config(config, changed))
    return words(plan) if plan["events"] else None


def words(plan: Mapping[str, Any]) -> str:
    """What became of the batches when memory ran out."""
    last = plan["events"][-1]
    again = ", activations computed again in the backward pass" if last["checkpointing"] else ""
    was, now = plan["batch_tokens"], last["batch_tokens"]
    return f"memory ran out {len(plan['events'])} times: batches of {now} tokens instead of {was}{again}"
