"""``cotrace check``: whether patches are right on a model, property by property."""

from __future__ import annotations

import json
from pathlib import Path

import transformers

from cotrace.cli.libraries import quiet_libraries
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.results import Table
from cotrace.runs.config import RunConfig
from cotrace.runs.prepare import load, load_task, use_threads
from cotrace.selfcheck import CheckFailed, CheckReport
from cotrace.selfcheck import check as check_model
from cotrace.selfcheck.report import HEADS


def check(config: RunConfig, *, row: bool, json_path: str | None, quiet: bool = False) -> None:
    """Check, show, and write the figures where asked. Raises CheckFailed where a property is broken."""
    if json_path is not None and Path(json_path).is_dir():
        raise InputError(f"{json_path} is a folder; name a file for the figures")
    screen = Screen(quiet)
    quiet_libraries()
    task = load_task(config) if config.task else None
    screen.note(f"loading {config.model}")
    model = load(config)
    use_threads(config, model)
    report = check_model(model, task, sites=config.sites or None)
    if row:
        screen.say(markdown_row(report))
    else:
        screen.say(Table(report.headline, HEADS, report.rows(), left=frozenset({0, 1, 4})))
        screen.say(f"sites: {', '.join(report.sites)}")
    if json_path is not None:
        Path(json_path).write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    if not report.ok:
        raise CheckFailed(report.reason)


def markdown_row(report: CheckReport) -> str:
    """The report as a row of the table of checkpoints in the documentation."""
    verdict = "holds" if report.ok else "; ".join(finding.words for finding in report.failures)
    cells = (
        report.model,
        report.dtype,
        transformers.__version__,
        ", ".join(report.sites),
        f"{report.error:.1e}",
        verdict,
    )
    return f"| {' | '.join(cells)} |"
