"""``cotrace measure``: what the model does with a task, before any search."""

from __future__ import annotations

from collections.abc import Sequence

from cotrace.cli.figures_json import STDOUT, check_figures, write_figures
from cotrace.cli.libraries import quiet_libraries
from cotrace.cli.progress import steps
from cotrace.cli.screen import Screen
from cotrace.measurement import measure as measure_task
from cotrace.prompts.fields import values_of
from cotrace.runs.config import RunConfig
from cotrace.runs.prepare import check_metric, load, load_task, suited_task


def measure(config: RunConfig, *, by: Sequence[str], json_path: str | None, quiet: bool = False) -> None:
    """Measure, show, and write the figures where asked. Raises CotraceError."""
    check_figures(json_path)
    screen = Screen(quiet, as_json=json_path == STDOUT)
    quiet_libraries()
    task = load_task(config)
    check_metric(config.metric, task)
    fields = list(by) or None
    for field in fields or ():
        values_of(task.pairs, field)
    twice = " and their counterfactuals" if any(pair.counterfactual for pair in task.pairs) else ""
    screen.note(f"to do: {len(task):,} prompts{twice}, each once, without any intervention")
    screen.note(f"loading {config.model}")
    model = load(config)
    task = suited_task(config, task, model)
    with steps(screen) as step:
        found = measure_task(
            model, task, metric=config.metric, by=fields, batch_tokens=config.batch_tokens, progress=step
        )
    screen.say(found.table())
    for note in found.notes:
        screen.say(note)
    write_figures(json_path, found.to_dict(), screen, "measure")
