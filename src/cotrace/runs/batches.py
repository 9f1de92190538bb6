"""The batch plan of a run: kept with its checkpoints and in its record, and gone on with by who resumes the run.

Sums over other batches differ in their last digits: where memory ran out, a replay agrees within 1e-5, not in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import read_run_config, write_config
from cotrace.runs.directory import CONFIG, write_atomically

BATCH_PLAN = "batch_plan"
"""Key of the record."""


def going_on(config: RunConfig, plan: Mapping[str, Any] | None) -> RunConfig:
    """The configuration with the batches that an interrupted run came to, unless it asks for others."""
    if plan is None or not plan["events"] or config.batch_tokens not in (None, plan["batch_tokens"]):
        return config
    last = plan["events"][-1]
    checkpointing = "on" if last["checkpointing"] else config.checkpointing
    return replace(config, batch_tokens=last["batch_tokens"], checkpointing=checkpointing)


def extended(plan: Mapping[str, Any] | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a run that was taken up, from its beginning on: what it was before, and what has changed since."""
    if plan is None:
        return dict(own)
    return dict(own) | dict(plan) | {"events": [*plan["events"], *own["events"]]}


def note(folder: Path, plan: Mapping[str, Any] | None) -> str | None:
    """Put the changes that came on the way into the record of the run; says them, where there were any."""
    if plan is None or not plan["events"]:
        return None
    config, record = read_run_config(folder)
    changed = dict(record) | {BATCH_PLAN: {**record[BATCH_PLAN], **plan}}
    write_atomically(folder / CONFIG, write_config(config, changed))
    return words(plan)


def words(plan: Mapping[str, Any]) -> str:
    """What became of the batches when memory ran out."""
    last = plan["events"][-1]
    again = ", activations computed again in the backward pass" if last["checkpointing"] else ""
    was, now = plan["batch_tokens"], last["batch_tokens"]
    return (
        f"memory ran out {len(plan['events'])} times: batches of {now} tokens instead of {was}{again}; "
        "a replay agrees within 1e-5"
    )
