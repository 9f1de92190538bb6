"""``cotrace measure``: what the model does with a task, before any search."""

from __future__ import annotations

from cotrace.cli.figures_json import STDOUT, check_figures, write_figures
from cotrace.cli.libraries import quiet_libraries
from cotrace.cli.screen import Screen
from cotrace.measurement import measure as measure_task
from cotrace.metrics import metric_named
from cotrace.runs.config import RunConfig
from cotrace.runs.prepare import load, load_task, suited_task


def measure(config: RunConfig, *, by: str | None, json_path: str | None, quiet: bool = False) -> None:
    """Measure, show, and write the figures where asked. Raises CotraceError."""
    check_figures(json_path)
    if config.metric is not None:
        metric_named(config.metric)
    screen = Screen(quiet, as_json=json_path == STDOUT)
    quiet_libraries()
    task = load_task(config)
    screen.note(f"loading {config.model}")
    fields = None if by is None else [field for field in by.split(",") if field]
    model = load(config)
    task = suited_task(config, task, model)
    found = measure_task(model, task, metric=config.metric, by=fields, batch_tokens=config.batch_tokens)
    screen.say(found.table())
    for note in found.notes:
        screen.say(note)
    write_figures(json_path, found.to_dict(), screen)
