"""``cotrace check``: whether patches are right on a model, property by property."""

from __future__ import annotations

import transformers

from cotrace.cli.figures_json import STDOUT, check_figures, write_figures
from cotrace.cli.libraries import quiet_libraries
from cotrace.cli.options import in_options
from cotrace.cli.progress import steps
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.problem.spaces import entries_of
from cotrace.results import Table
from cotrace.runs.config import RunConfig
from cotrace.runs.prepare import listed_sites, load, load_task, suited_task, use_threads
from cotrace.selfcheck import CheckFailed, CheckReport, check_reading
from cotrace.selfcheck import check as check_model
from cotrace.selfcheck.report import HEADS


def check(config: RunConfig, *, row: bool, json_path: str | None, quiet: bool = False) -> None:
    """Check, show, and write the figures where asked. Raises CheckFailed where a property is broken."""
    check_figures(json_path)
    screen = Screen(quiet, as_json=json_path == STDOUT)
    quiet_libraries()
    task = load_task(config) if config.task else None
    reading = {"data": config.data, "split": config.split, "conventions": config.conventions}
    if not config.task and (given := [name for name, value in reading.items() if value is not None]):
        raise InputError(f"--{given[0]} says how the pairs of a task are read: give --task as well")
    asked = listed_sites(config.sites)
    entries_of(asked)
    check_reading(task, config.donors, config.align)
    screen.note(f"loading {config.model}")
    model = load(config)
    use_threads(config, model)
    task = task and suited_task(config, task, model)
    sites = ", ".join(config.sites or [site.value for site in model.sites])
    where = f" in layers {config.layers}" if config.layers else ""
    screen.note(f"to do: each property of the model and of {sites}{where}, on prompts of random tokens")
    with steps(screen) as step:
        report = check_model(
            model,
            task,
            sites=asked or None,
            layers=config.layers,
            donors=config.donors,
            align=config.align,
            progress=step,
        )
    if row:
        screen.say(markdown_row(report))
    else:
        rows = [tuple(in_options(str(cell)) for cell in row) for row in report.rows()]
        screen.say(Table(report.headline, HEADS, rows, left=frozenset({0, 1, 4})))
        screen.say(f"sites: {report.places}")
    write_figures(json_path, report.to_dict(), screen, "check")
    if not report.ok:
        raise CheckFailed(report.reason)


def markdown_row(report: CheckReport) -> str:
    """The report as a row of the table of checkpoints in the documentation."""
    verdict = "holds" if report.ok else "; ".join(finding.words for finding in report.failures)
    cells = (
        report.model,
        report.dtype,
        transformers.__version__,
        report.places,
        f"{report.error:.1e}",
        verdict,
    )
    return f"| {' | '.join(cells)} |"
