"""``cotrace evaluate``, and the data that a finished run prints as JSON."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import Any

from cotrace import tasks
from cotrace.cli.console import Screen, own_threads, quiet_libraries
from cotrace.cli.display import forecast_of
from cotrace.cli.options import Judging
from cotrace.errors import CotraceError, InputError
from cotrace.evaluation import (
    CrossFit,
    Evaluation,
    EvaluationPlan,
    TooFewPairs,
    applied,
    cross_fit,
    folds_cost,
    predict,
    stability_cost,
    with_intervals,
)
from cotrace.evaluation.evaluate import Progress, settled
from cotrace.evaluation.evidence import Sets, evaluate
from cotrace.evaluation.published import inside_of
from cotrace.evaluation.stability import check_divisible
from cotrace.interchange import circuits as known
from cotrace.interchange import read_selection
from cotrace.prompts import Task
from cotrace.results import Frontier, Selection
from cotrace.runs.addenda import (
    EVALUATION,
    check_audit_unused,
    prepare_again,
    read_evaluation,
    store_evaluation,
    with_effects,
)
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import read_run_config
from cotrace.runs.directory import MANIFEST
from cotrace.runs.journal import forget, journaling
from cotrace.runs.manifest import Manifest, holds
from cotrace.runs.prepare import Prepared
from cotrace.runs.result_files import StoredRun, enough
from cotrace.search import Search
from cotrace.statistics import Units


def run_data(folder: Path, files: Iterable[str], frontiers: Sequence[Frontier], found: Evaluation | None) -> Any:
    """A finished run: the rows of frontier.csv, the selection that is enough, the verdict, and the paths written."""
    first = frontiers[0]
    return {
        "run": str(folder),
        "files": {name: str(folder / name) for name in sorted(files)},
        "summary": first.summary,
        "task": first.task,
        "metric": first.metric,
        "mode": first.mode,
        "direction": first.direction,
        "full_effect": first.full_effect,
        "full_effect_heldout": first.full_effect_heldout,
        "full_is_clear": first.full_is_clear,
        "reported_before": first.reported_before,
        "reported_before_heldout": first.reported_before_heldout,
        "chosen": {"search": first.search, **enough(first).to_dict()},
        "frontier": [row | {"components": row["components"].split()} for one in frontiers for row in one.rows()],
        "verdict": [] if found is None else list(found.verdict),
    }


def stored_data(folder: Path) -> Any:
    """The same of a run that is finished already."""
    stored = StoredRun.read(folder)
    found = read_evaluation(folder / EVALUATION) if holds(folder, EVALUATION) else None
    return run_data(folder, [*Manifest.read(folder).files, MANIFEST], stored.frontiers, found)


def plan_data(prepared: Prepared) -> Any:
    """Return the plan of a run and its cost as data."""
    plan, found = prepared.problem.plan, forecast_of(prepared)
    cost = {name: search.forward_equivalents for name, search in found.searches.items()}
    return {
        "summary": prepared.goal.summary,
        "plan": asdict(plan),
        "predicted_forward_equivalents": cost,
        "predicted_evaluation": found.evaluation,
        "predicted_seconds": found.seconds,
    }


def evaluation_data(path: Path, found: Evaluation, folds: CrossFit | None) -> Any:
    """An evaluation, where it was written, and cross-fitting where it was asked for."""
    fitted = {} if folds is None else {"cross_fit": asdict(folds)}
    return {"written": str(path), "evaluation": found.to_dict()} | fitted


def sets_of(asked: Judging) -> Sets:
    """Somebody else's sets, by name. Raises InputError."""
    names = [Path(path).name for path in asked.selection]
    # What two of them are called names neither: then each is called by its path.
    called = names if len({*names, *asked.known}) == len(names) + len(set(asked.known)) else asked.selection
    files = {name: read_selection(path) for name, path in zip(called, asked.selection, strict=True)}
    return {**files, **{name: known.circuit(name) for name in asked.known}}


def check_text(asked: Judging) -> None:
    """Raise InputError where the text that is named cannot be read, or has nothing to score."""
    if asked.text is None:
        return
    try:
        tasks.load("text", data=asked.text)
    except InputError as error:
        raise InputError(f"--text {asked.text}: {error}") from None


def sides_of(asked: Judging) -> list[Task]:
    """The further tasks that are named. Raises InputError."""
    return [tasks.load(name) for name in asked.side]


def check_asked(asked: Judging, stored: StoredRun) -> None:
    """Refuse what the run alone shows to be impossible, before anything is loaded. Raises InputError."""
    frontier = stored.frontier(asked.search)
    if asked.k is not None:
        frontier.at(asked.k)
    if asked.audit:
        check_audit(stored)
    if asked.folds:
        check_folds(stored, asked.folds)
    if asked.folds or asked.stability:
        check_searches_again(stored, frontier.search)
    for name in asked.known:
        check_circuit(known.circuit(name), stored.config)
    check_text(asked)


@own_threads()
def evaluate_run(
    run: str,
    asked: Judging,
    *,
    workers: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Load the run's model and data, check that they are the run's, say the plan, judge, show, store."""
    stored = StoredRun.read(run)
    check_asked(asked, stored)
    sets, sides = sets_of(asked), sides_of(asked)
    frontiers = _ordered(stored, asked.search)
    check_foreign(sets, frontiers[0])
    screen = Screen(quiet, as_json)
    quiet_libraries()
    screen.note(f"loading {stored.config.model}")
    question = replace(stored.question, **({} if dry_run else workers or {}))
    if asked.judge_pairs is not None:
        question = replace(question, judge_pairs=asked.judge_pairs)
    with prepare_again(stored.path, question) as prepared:
        screen.note_workers(prepared.workers)
        evaluate_prepared(stored, prepared, frontiers, asked, sets, sides, screen, dry_run=dry_run)


def evaluate_prepared(
    stored: StoredRun,
    prepared: Prepared,
    frontiers: Sequence[Frontier],
    asked: Judging,
    sets: Sets,
    sides: Sequence[Task],
    screen: Screen,
    *,
    dry_run: bool,
) -> None:
    """Say the plan, judge, show, store."""
    check_units(prepared, asked)
    plan = say_plan(prepared, frontiers[0], asked, screen)
    if dry_run:
        screen.data("evaluate", lambda: asdict(plan), dry_run=True)
        return
    if asked.audit:
        _ = prepared.problem.audit
    with warnings.catch_warnings(), journaling(prepared.goal, stored.path, prepared.config.checkpoint_every_s):
        warnings.simplefilter("ignore", TooFewPairs)  # the verdict says it
        found = _judge(prepared, frontiers, asked, sets, sides, screen)
    for part in (found.members_table(), found.table()):
        screen.say(part)
    say_verdict(found, screen)
    path = store_evaluation(stored.path, found)
    forget(stored.path)
    screen.say(f"\nWritten to {path}")
    folds = say_folds(prepared, frontiers[0].search, asked.folds, screen) if asked.folds else None
    screen.data("evaluate", lambda: evaluation_data(path, found, folds))


def check_foreign(sets: Sets, frontier: Frontier) -> None:
    """Raise InputError where the run's space holds no component of a set, or lacks one that a file names.

    Components of sites that the run did not trace are left out later, and said; one of a site that it did trace, at a
    layer or unit that the space lacks, is no component of this model.
    """
    space = frontier.space
    there = {(one.site, one.layer, one.unit) for one in space}
    for name, one in sets.items():
        unknown = [c for c in one.members if c.site in space.sites and (c.site, c.layer, c.unit) not in there]
        if unknown and isinstance(one, Selection):
            raise InputError(
                f"{name}: {', '.join(map(str, unknown[:3]))} is no component of this run's space of {space.outline}: "
                "correct the name, or take it out of the file"
            )
        inside_of(space, name, one.members)


def check_circuit(circuit: known.Circuit, config: RunConfig) -> None:
    """Raise InputError where a published circuit is of another model: by its configuration, weights are not loaded."""
    circuit.check(config.model, config.model_config())


def check_audit(stored: StoredRun) -> None:
    """Raise InputError where the run has no audit pairs, or they have been used."""
    if not stored.config.audit:
        raise InputError(
            f"{stored.path} has no audit pairs: they are set aside when a run is made, with --audit 0.2, say"
        )
    check_audit_unused(stored.path)


def check_folds(stored: StoredRun, folds: int) -> None:
    """Raise InputError where the run has searched fewer pairs than there are to be folds."""
    record = read_run_config(stored.path)[1]
    count = record.get("pairs_training", record.get("pairs_searched"))
    if isinstance(count, int) and count < folds:
        raise InputError(f"--folds {folds}: {stored.path} has {count} training pairs; give at most so many folds")


def check_searches_again(stored: StoredRun, name: str) -> None:
    """Raise InputError where the run's configuration does not have the search that is to search again."""
    if name not in stored.config.searches:
        raise InputError(f"--folds and --stability search again, and the run has no search {name!r}; leave them out")


def check_units(prepared: Prepared, asked: Judging) -> None:
    """Raise InputError where there are too few pairs to search again on parts of them, before anything is evaluated."""
    for option in ("folds", "stability"):
        if getattr(asked, option):
            check_divisible(prepared.goal, option)
    units = Units.of(prepared.goal)
    if asked.stability and units.count < 3:
        raise InputError(f"--stability leaves some pairs out, and the run searched {units.words}: leave it out")
    if asked.folds > units.count:
        unit = "groups of pairs" if units.clustered else "pairs"
        raise InputError(f"--folds {asked.folds}: the run searched {units.count} {unit}; give at most so many folds")


def _ordered(stored: StoredRun, search: str | None) -> list[Frontier]:
    """The frontier that is judged first, the others behind it."""
    first = stored.frontier(search)
    return [with_effects(stored.path, one) for one in (first, *(one for one in stored.frontiers if one is not first))]


def _judge(
    prepared: Prepared,
    frontiers: Sequence[Frontier],
    asked: Judging,
    sets: Sets,
    sides: Sequence[Task],
    screen: Screen,
) -> Evaluation:
    return evaluate(
        prepared.goal,
        frontiers,
        level=asked.level,
        k=asked.k,
        pairs=asked.pairs,
        against=sets,
        text=asked.text,
        side=sides,
        stability=asked.stability,
        search=_search_of(prepared, frontiers[0].search),
        smallest_p=asked.smallest_p,
        every_size=asked.every_size,
        intervals=asked.intervals,
        seed=prepared.config.seed,
        progress=noting(screen),
    )


def noting(screen: Screen) -> Progress:
    """A line for each part of an evaluation, before it is done."""
    return lambda what, done, of: screen.note(f"{what} ({done + 1} of {of})")


def _search_of(prepared: Prepared, name: str) -> Search | None:
    """The run's search of that name."""
    return next((search for search in prepared.searches if search.name == name), None)


def say_plan(prepared: Prepared, frontier: Frontier, asked: Judging, screen: Screen) -> EvaluationPlan:
    """Print the plan of a run and its cost before it starts."""
    more: dict[str, Any] = {"smallest_p": asked.smallest_p, "every_size": asked.every_size}
    judged_on: dict[str, Any] = {"level": asked.level, "k": asked.k, "pairs": asked.pairs}
    if asked.intervals:
        settled(prepared.goal, frontier, intervals=True, **judged_on, **more)
    plan = predict(prepared.goal, frontier, **judged_on, **more)
    screen.say(plan.table())
    problem, search = prepared.goal, _search_of(prepared, frontier.search)
    if asked.stability and search is not None:
        cost = stability_cost(problem, frontier, search, asked.stability, seed=prepared.config.seed, **judged_on)
        screen.say(f"Searching again {asked.stability} times, and without members: at most {ceil(cost):,} more")
    if asked.folds and search is not None:
        screen.say(f"{asked.folds}-fold cross-fitting: at most {ceil(folds_cost(problem, search, asked.folds)):,} more")
    return plan


def say_folds(prepared: Prepared, name: str, folds: int, screen: Screen) -> CrossFit:
    """Cross-fitting over the pairs that the run searched."""
    search = _search_of(prepared, name)
    if search is None:
        raise InputError(f"cross-fitting searches again, and the run has no search {name!r}")
    told = cross_fit(
        prepared.goal,
        search,
        count=folds,
        seed=prepared.config.seed,
        progress=noting(screen),
    )
    screen.say(told.table())
    return told


def say_verdict(evaluation: Evaluation, screen: Screen) -> None:
    """The verdict, one sentence a line."""
    screen.title(f"Verdict ({evaluation.level}, {evaluation.forward_equivalents:,.0f} forward-equivalents)")
    for sentence in evaluation.verdict:
        screen.say(sentence)


def judged(
    prepared: Prepared, frontiers: Sequence[Frontier], screen: Screen
) -> tuple[list[Frontier], Evaluation | None]:
    """The frontiers of a trace with their intervals, and the first one judged at the run's level.

    What cannot be judged is said and does not cost the user the search.
    """
    problem, level = prepared.goal, prepared.config.evaluation
    if level == "none":
        return list(frontiers), None
    first, *others = (with_intervals(problem, one) for one in frontiers)
    try:
        planned = predict(problem, first, level=level)
        screen.note(f"evaluation {level}: at most {planned.forward_equivalents:,} forward-equivalents")
        if level != "quick":
            screen.say(planned.table())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TooFewPairs)  # the verdict says it
            found = evaluate(problem, [first, *others], level=level, seed=prepared.config.seed, progress=noting(screen))
    except CotraceError as error:
        screen.say(f"The result could not be judged: {error}")
        return [first, *others], None
    return [applied(first, found), *others], found
