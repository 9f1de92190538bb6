"""``cotrace trace``, ``compare``, ``resume`` and ``demo``: a run from its options to its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotrace.cli.console import Screen, own_threads, quiet_libraries
from cotrace.cli.display import Watch, dry_run_tables, plan_line, watching
from cotrace.cli.inspection import pair_lines
from cotrace.cli.judging import judged, plan_data, run_data, say_verdict, stored_data
from cotrace.cli.summary import closing
from cotrace.errors import InputError
from cotrace.results import Frontier
from cotrace.run_folder.folder import figures
from cotrace.runs import RunConfig, RunDirectory
from cotrace.runs import checkpoint as batches
from cotrace.runs.checkpoint import Checkpoints, RunState
from cotrace.runs.config import IDENTITY_WORKERS, identity
from cotrace.runs.config_file import SHIPPED, write_config
from cotrace.runs.directory import MANIFEST, locked, sweep
from cotrace.runs.journal import forget, journaling
from cotrace.runs.manifest import Manifest
from cotrace.runs.prepare import Prepared, prepare
from cotrace.runs.provenance import record
from cotrace.runs.writer import Begun, RunWriter, run_files
from cotrace.search import Search, SearchState, solve
from cotrace.search.solve import remember

ALONE: dict[str, Any] = dict.fromkeys(IDENTITY_WORKERS)
"""Options of a run without workers."""
COMPARED = ("pursuit", "pgbct", "greedy", "topk", "random")


@own_threads()
def answer(
    config: RunConfig,
    searches: Sequence[str],
    *,
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Run a configuration; ``searches`` is used where it names none. Raises CotraceError before the first step."""
    directory = RunDirectory.claim(config.out) if config.out else None
    screen = Screen(quiet, as_json)
    quiet_libraries()
    prepared = prepare(replace(config, **ALONE) if dry_run else config, searches, say=screen.note)
    if dry_run:
        prepared = replace(prepared, config=replace(prepared.config, **config.of_workers))
        screen.say(prepared.goal.summary)
        for table in dry_run_tables(prepared):
            screen.say(table)
        screen.data("trace", lambda: plan_data(prepared), dry_run=True)
        return
    with prepared:
        screen.note_workers(prepared.workers)
        run(prepared, directory or RunDirectory.next_free(f"runs/{name_of(prepared)}"), screen)


@own_threads()
def resume(
    folder: str,
    *,
    batch_tokens: int | None = None,
    quiet: bool = False,
    as_json: bool = False,
    workers: Mapping[str, Any] | None = None,
) -> None:
    """Go on with a run where its last checkpoint stands, with smaller batches or workers where asked for.

    Raises CotraceError.
    """
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch tokens is {batch_tokens}: give at least 1")
    begun, screen = Begun.read(folder).by(workers or {}), Screen(quiet, as_json)
    if _finished(begun, screen):
        begun.tidy()
        return
    with locked(begun.folder):
        if not _finished(begun, screen):  # by another process, between the question above and the lock
            go_on(begun if batch_tokens is None else begun.with_batches(batch_tokens), screen)


def _finished(begun: Begun, screen: Screen) -> bool:
    """Whether there is nothing to resume; says so."""
    if begun.is_finished:
        screen.say(f"{begun.folder} is finished: there is nothing to resume")
        screen.data("resume", lambda: stored_data(begun.folder))
    return begun.is_finished


def go_on(begun: Begun, screen: Screen) -> None:
    """The run from its last checkpoint to its end. Only for who holds the lock."""
    quiet_libraries()
    screen.note(f"loading {begun.config.model}")
    checkpoints = begun.checkpoints
    state = checkpoints.load()
    prepared = begun.prepared(state)
    with prepared:
        screen.note_workers(prepared.workers)
        taken_up(prepared, begun.folder, checkpoints, state, screen)


def taken_up(prepared: Prepared, folder: Path, checkpoints: Checkpoints, state: RunState, screen: Screen) -> None:
    """A run that is prepared again, from where it stands to its end."""
    screen.say(prepared.goal.summary)
    for done in state.frontiers:  # by its hashes the problem is the one that they were measured on
        remember(prepared.goal, done.effects, done.effects_heldout)
    sweep(folder)
    screen.note("no checkpoint: from the beginning" if state.is_new else f"going on after step {len(state.steps)}")
    keep(prepared, writer_of(prepared, folder, checkpoints, state), screen)


def name_of(prepared: Prepared) -> str:
    """Return the name of a run for which the user gives none."""
    searches = prepared.config.searches
    return f"{prepared.task.name}-{searches[0] if len(searches) == 1 else 'compare'}"


def run(prepared: Prepared, directory: RunDirectory, screen: Screen) -> None:
    """Say the plan, make the run's folder, then search, show and write."""
    screen.say(prepared.goal.summary)  # first, as it may say that there is nothing to explain
    if not screen.quiet:
        screen.note(plan_line(prepared))
    with directory.begun(write_config(prepared.config, record(prepared))) as path:
        checkpoints = Checkpoints(path, identity(prepared.config))
        keep(prepared, writer_of(prepared, path, checkpoints, RunState()), screen)


def writer_of(prepared: Prepared, folder: Path, checkpoints: Checkpoints, state: RunState) -> RunWriter:
    """Return the writer that keeps this run in its folder from here on."""
    every_s, problem = prepared.config.checkpoint_every_s, prepared.problem
    return RunWriter(folder, checkpoints, state, every_s, batch_plan=lambda: problem.batch_plan)


def keep(prepared: Prepared, writer: RunWriter, screen: Screen) -> None:
    """The run from where it stands to its end; whatever stops it, it can be resumed."""
    writer.log.say(f"begun, or taken up after step {len(writer.state.steps)}")
    try:
        finish(prepared, writer, screen)
    except BaseException as reason:
        writer.stop(reason)
        raise


def finish(prepared: Prepared, writer: RunWriter, screen: Screen) -> None:
    """Search, judge, show and write; the manifest is the last file, and the checkpoints go."""
    found = search_all(prepared, writer, screen)
    writer.save()
    with journaling(prepared.goal, writer.run, prepared.config.checkpoint_every_s) as journal:
        if journal.found:
            screen.note(f"{journal.found} batches of the evaluation are known from before")
        frontiers, evaluation = judged(prepared, found, screen)
    for part in closing(frontiers):
        screen.say(part)
    if evaluation is not None:
        say_verdict(evaluation, screen)
    files = run_files(frontiers, writer.state.steps, evaluation)
    files |= figures(prepared.problem, frontiers, evaluation, writer.run)
    RunDirectory(writer.run).write(files)
    if said := batches.note(writer.run, writer.state.batch_plan):
        screen.note(said)
        writer.log.say(said)
    forget(writer.run)
    writer.finish()
    written = sorted([*Manifest.read(writer.run).files, MANIFEST])
    screen.say(f"\nWritten to {writer.run}: {', '.join(written)}")
    screen.data("trace", lambda: run_data(writer.run, written, frontiers, evaluation))


def search_all(prepared: Prepared, writer: RunWriter, screen: Screen) -> list[Frontier]:
    """The frontier of each search of the run; those that are done already are not searched again."""
    done = len(writer.state.frontiers)
    for search in prepared.searches[done:]:
        found = search_once(prepared, search, writer, screen)
        writer.done(up_to(found, prepared.config.max_size))
    return list(writer.state.frontiers)


def search_once(prepared: Prepared, search: Search, writer: RunWriter, screen: Screen) -> Frontier:
    """One search from where it stands to its frontier, every step noted."""
    state = writer.begin()
    with watching(search, prepared.goal, screen, prepared.workers) as watch:
        found = solve(search, prepared.goal, state=state, progress=noting(watch, writer))
    found = replace(found, elapsed_s=writer.elapsed_s)
    said = f"{search.name}: done, {found.forward_equivalents:,.0f} forward-equivalents in {found.elapsed_s:.1f} s"
    screen.note(said)
    if advice := found.summary.removeprefix(prepared.goal.summary).strip(" ()"):
        screen.note(f"{search.name}: {advice}")
    writer.log.say(said)
    return found


def noting(watch: Watch, writer: RunWriter) -> Callable[[SearchState], None]:
    """Return the callback of every step: it shows the step and keeps it."""

    def step(state: SearchState) -> None:
        watch(state)
        writer.step(watch.steps[-1], state)

    return step


def up_to(found: Frontier, max_size: int | None) -> Frontier:
    """The frontier up to the largest size asked for; whole where a search by penalties found none so small."""
    within = tuple(selection for selection in found if max_size is None or selection.k <= max_size)
    return replace(found, selections=within) if within else found


CONFIG = RunConfig(
    model=SHIPPED,
    task="demo_conflict",
    searches=COMPARED,
    max_size=16,
    # On log-odds that move by 16 the bounded losses are flat long before all heads count: the linear one is not.
    search_options={"pgbct": {"path": 12, "transformation": "linear"}},
)
FOLDER = "cotrace-demo"


@own_threads()
def demo(out: str | None, quiet: bool = False, as_json: bool = False) -> None:
    """Trace a planted bias in the model that ships with five searches, and say what is seen. Raises CotraceError."""
    began = time.perf_counter()
    directory = RunDirectory.claim(out) if out else RunDirectory.next_free(FOLDER)
    screen = Screen(quiet, as_json)
    quiet_libraries()
    prepared = prepare(CONFIG)
    introduce(prepared, screen)
    run(prepared, directory, screen)
    screen.say(f"{time.perf_counter() - began:.0f} s. Now a model of your own: cotrace trace --help")


def introduce(prepared: Prepared, screen: Screen) -> None:
    """The model, one pair, and what will be done to them."""
    model, problem = prepared.model, prepared.problem
    layers, parameters = len(model.layers), model.module.num_parameters()
    screen.say(f"The model: {layers} layers, {parameters / 1e6:.1f} million parameters; it ships with cotrace.")
    screen.say(
        f"The data: {len(prepared.task)} pairs of prompts, {problem.size} searched, the rest held out. One of them:"
    )
    for line in pair_lines(prepared.task.pairs[0]):
        screen.say(line)
    screen.say("The question: which heads, together, make the model answer one prompt as it answers the other?\n")
