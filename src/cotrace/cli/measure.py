"""``cotrace measure``: what the model does with a task, before any search."""

from __future__ import annotations

import json
from pathlib import Path

from cotrace.cli.libraries import quiet_libraries
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.measurement import measure as measure_task
from cotrace.metrics import metric_named
from cotrace.runs.config import RunConfig
from cotrace.runs.prepare import load, load_task


def measure(config: RunConfig, *, by: str | None, json_path: str | None, quiet: bool = False) -> None:
    """Measure, show, and write the figures where asked. Raises CotraceError."""
    if json_path is not None and Path(json_path).is_dir():
        raise InputError(f"{json_path} is a folder; name a file for the figures")
    if config.metric is not None:
        metric_named(config.metric)
    screen = Screen(quiet)
    quiet_libraries()
    task = load_task(config)
    screen.note(f"loading {config.model}")
    fields = None if by is None else [field for field in by.split(",") if field]
    found = measure_task(load(config), task, metric=config.metric, by=fields, batch_tokens=config.batch_tokens)
    screen.say(found.table())
    for note in found.notes:
        screen.say(note)
    if json_path is not None:
        Path(json_path).write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
