"""``cotrace sweep``: the cells of a grid, in turn or side by side; those that are done are not run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cotrace.cli.answer import go_on, run
from cotrace.cli.libraries import own_threads, quiet_libraries
from cotrace.cli.screen import Screen
from cotrace.errors import CotraceError, InputError, is_out_of_memory
from cotrace.runs import RunDirectory
from cotrace.runs.campaign import REPORT, SUMMARY, Campaign, Outcome, tables
from cotrace.runs.grid import Cell, read_grid
from cotrace.runs.lock import locked
from cotrace.runs.prepare import one_crew, prepare
from cotrace.runs.resume import Begun
from cotrace.visible import visible


@own_threads()
def sweep(
    grid: str,
    *,
    out: str | None,
    workers: dict[str, Any],
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Run what is left of a grid, then show and write what all cells say. Raises CotraceError where cells failed."""
    cells, screen = read_grid(grid), Screen(quiet, as_json)
    campaign = Campaign(Path(out or f"runs/{Path(grid).stem}"), cells)
    left = [cell for cell in cells if not campaign.is_done(cell)]
    screen.note(f"{len(cells)} cells, {len(cells) - len(left)} of them done; results go to {campaign.folder}")
    if dry_run:
        plan = [(cell.name, _todo(campaign, cell)) for cell in cells]
        for name, todo in plan:
            screen.say(f"{todo}: {name}")
        rows = [{"cell": name, "status": todo} for name, todo in plan]
        screen.data("sweep", lambda: {"written": None, "cells": rows})
        return
    quiet_libraries()
    campaign.claim()
    with locked(campaign.folder):
        failures = _all(campaign, left, workers, Screen(quiet or as_json))
    outcomes = [_outcome(campaign, cell, failures.get(cell.name, "")) for cell in cells]
    campaign.write(outcomes)
    for table in tables(outcomes):
        screen.say(table)
    screen.say(f"\nWritten to {campaign.folder}: {SUMMARY}, {REPORT} and a run for each cell")
    screen.data("sweep", lambda: {"written": str(campaign.folder), "cells": [outcome.row() for outcome in outcomes]})
    failed = [outcome for outcome in outcomes if outcome.failure]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(cells)} cells have no result; the first, {failed[0].cell.name}: "
            f"{failed[0].failure}. The others are done; mend it and say `cotrace sweep {grid}` again"
        )


def _todo(campaign: Campaign, cell: Cell) -> str:
    """What is left of a cell."""
    if campaign.is_done(cell):
        return "done"
    return "to resume" if campaign.is_begun(cell) else "to run"


def _all(campaign: Campaign, left: Sequence[Cell], workers: dict[str, Any], screen: Screen) -> dict[str, str]:
    """Cell -> why it failed, empty where it did not: side by side where there are cells enough for all workers."""
    if 1 < (workers.get("workers") or 0) <= len(left) and not workers.get("worker_gpus"):
        return _side_by_side(campaign, left, workers, screen)
    with one_crew():
        return {cell.name: _one(campaign, cell, workers, screen) for cell in left}


def _side_by_side(campaign: Campaign, left: Sequence[Cell], workers: dict[str, Any], screen: Screen) -> dict[str, str]:
    """As many cells at a time as there are workers, each in a process of its own."""
    from cotrace.workers.jobs import Side, side_by_side
    from cotrace.workers.workers import MAX_RESTARTS

    restarts = workers.get("max_restarts")
    side = Side(
        count=workers["workers"],
        ray_address=workers.get("ray"),
        max_restarts=MAX_RESTARTS if restarts is None else restarts,
        threads=max((cell.config.threads or 1 for cell in left), default=1),
    )
    screen.note(f"{side.count} cells at a time, each on a worker of its own")
    there = replace(campaign, folder=campaign.folder.absolute())  # a worker may be in another folder
    jobs = {cell.name: partial(_alone, there, cell) for cell in left}
    failures: dict[str, str] = {}
    for name, failure in side_by_side(jobs, side, campaign.folder):
        failures[name] = failure
        screen.say(f"{len(failures)} of {len(left)}: {name}: {f'failed: {failure}' if failure else 'done'}")
    return failures


def _alone(campaign: Campaign, cell: Cell) -> str:
    """One cell in a worker's process."""
    return _one(campaign, cell, {}, Screen(quiet=True))


def _outcome(campaign: Campaign, cell: Cell, failure: str) -> Outcome:
    try:
        return campaign.outcome(cell, failure)
    except CotraceError as error:
        return Outcome(cell, str(error))


def _one(campaign: Campaign, cell: Cell, workers: dict[str, Any], screen: Screen) -> str:
    """Run or resume one cell; gives the line of what went wrong, empty where nothing did. Only errors of the user's
    or the machine's are taken for the cell's own: others end the campaign, which can be gone on with."""
    screen.title(cell.name)
    try:
        _run(campaign, cell, workers, screen)
    except CotraceError as error:
        failure = str(error)
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        failure = f"{type(error).__name__}: {error}"
    else:
        return ""
    line = visible(" ".join(failure.split()))
    screen.say(f"failed: {line}")
    return line


def _run(campaign: Campaign, cell: Cell, workers: dict[str, Any], screen: Screen) -> None:
    path = campaign.path(cell)
    if campaign.is_begun(cell):
        with locked(path):
            go_on(Begun.read(path).by(workers), screen)
        return
    directory = RunDirectory.claim(path)
    with prepare(replace(cell.config, out=str(path), **workers)) as prepared:
        screen.note_workers(prepared.workers)
        run(prepared, directory, screen)
