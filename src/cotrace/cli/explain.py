"""``cotrace explain``: what the members of a run's selection do, kept in the run's folder for its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cotrace import known
from cotrace.cli.evaluate import check_circuit
from cotrace.cli.libraries import own_threads, quiet_libraries
from cotrace.cli.screen import Screen
from cotrace.readout import Explanation, explain, predict
from cotrace.readout.changes import Progress
from cotrace.readout.files import NAMES, contents
from cotrace.results import Selection
from cotrace.runs.evidence import prepare_again
from cotrace.runs.manifest import add_files
from cotrace.runs.results import enough
from cotrace.runs.stored import StoredRun

LINE_EVERY_S = 5.0


@own_threads()
def explain_run(
    run: str,
    *,
    k: int | None,
    search: str | None,
    circuits: Sequence[str],
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Load the run's model and data, check that they are the run's, say the cost, explain, show, store."""
    stored = StoredRun.read(run)
    frontier = stored.frontier(search)
    selection = enough(frontier) if k is None else frontier.at(k)
    published = [known.circuit(name) for name in circuits]
    for circuit in published:
        check_circuit(circuit, stored.config)
    screen = Screen(quiet, as_json)
    quiet_libraries()
    screen.note(f"loading {stored.config.model}")
    problem = prepare_again(stored.path, stored.question).problem
    plan = predict(problem, selection)
    screen.say(f"{frontier.search}, k = {selection.k}: {plan}")
    if dry_run:
        screen.data("explain", lambda: asdict(plan), dry_run=True)
        return
    roles: dict[str, Any] = {role: Selection(members=of) for one in published for role, of in one.roles.items()}
    found = explain(problem, selection, known=roles, progress=_lines(screen))
    _say(found, screen)
    add_files(stored.path, contents(found))
    screen.say(f"\nWritten to {stored.path / NAMES[0]}, with a graph and tables; `cotrace report {run}` shows it")
    written = [str(stored.path / name) for name in NAMES]
    screen.data("explain", lambda: {"written": written, "words": list(found.words), "explanation": found.to_dict()})


def _lines(screen: Screen) -> Progress:
    """A line when a part begins, and every few seconds."""
    last: tuple[str, float] = "", 0.0

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if what != last[0] or now - last[1] >= LINE_EVERY_S:
            last = what, now
            screen.note(f"{what}: {done} of {of} pairs")

    return tell


def _say(found: Explanation, screen: Screen) -> None:
    screen.title(found.summary)
    for line in (*found.words, *found.notes):
        screen.say(line)
    screen.say("")
    for table in found.tables():
        screen.say(table)
