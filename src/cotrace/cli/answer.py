"""One question answered: prepare, say it, search, show, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cotrace.cli.closing import closing
from cotrace.cli.dry_run import dry_run_tables
from cotrace.cli.evaluate import judged, say_verdict
from cotrace.cli.figures import figures
from cotrace.cli.libraries import own_threads, quiet_libraries
from cotrace.cli.progress import Watch, watching
from cotrace.cli.screen import Screen
from cotrace.results import Frontier
from cotrace.runs import RunConfig, RunDirectory
from cotrace.runs.prepare import Prepared, prepare
from cotrace.runs.write import run_files
from cotrace.search import solve

COMPARED = ("pursuit", "pgbct", "greedy", "topk", "random")


@own_threads()
def answer(config: RunConfig, searches: Sequence[str], *, dry_run: bool = False, quiet: bool = False) -> None:
    """Run a configuration; ``searches`` is used where it names none. Raises CotraceError before the first step."""
    directory = RunDirectory.claim(config.out) if config.out else None
    screen = Screen(quiet)
    quiet_libraries()
    screen.note(f"loading {config.model}")
    prepared = prepare(config, searches)
    if dry_run:
        screen.say(prepared.problem.summary)
        for table in dry_run_tables(prepared):
            screen.say(table)
        return
    run(prepared, directory or RunDirectory.next_free(f"runs/{name_of(prepared)}"), screen)


def name_of(prepared: Prepared) -> str:
    """What a run is called where the user gives no name."""
    searches = prepared.config.searches
    return f"{prepared.task.name}-{searches[0] if len(searches) == 1 else 'compare'}"


def run(prepared: Prepared, directory: RunDirectory, screen: Screen) -> None:
    """Search, show and write."""
    screen.say(prepared.problem.summary)
    frontiers, watches = search_all(prepared, screen)
    frontiers, evaluation = judged(prepared, frontiers, screen)
    for part in closing(frontiers):
        screen.say(part)
    if evaluation is not None:
        say_verdict(evaluation, screen)
    steps = [step for watch in watches for step in watch.steps]
    files = run_files(prepared, frontiers, steps, evaluation) | figures(frontiers)
    directory.write(files)
    screen.say(f"\nWritten to {directory.path}: {', '.join(sorted(files))}")


def search_all(prepared: Prepared, screen: Screen) -> tuple[list[Frontier], list[Watch]]:
    """The frontier of each search of the run, and what was seen on the way."""
    frontiers, watches = [], []
    for search in prepared.searches:
        with watching(search, prepared.problem, screen) as watch:
            found = solve(search, prepared.problem, progress=watch)
        screen.note(
            f"{search.name}: done, {found.forward_equivalents:,.0f} forward-equivalents in {found.elapsed_s:.1f} s"
        )
        frontiers.append(up_to(found, prepared.config.max_size))
        watches.append(watch)
    return frontiers, watches


def up_to(found: Frontier, max_size: int | None) -> Frontier:
    """The frontier up to the largest size asked for; whole where a search by penalties found none so small."""
    within = tuple(selection for selection in found if max_size is None or selection.k <= max_size)
    return replace(found, selections=within) if within else found
