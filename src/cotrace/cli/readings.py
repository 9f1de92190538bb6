"""``cotrace explain`` and ``cotrace transfer``: what a run's set does, and whether it carries over."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cotrace import tasks
from cotrace.carry_over import Transfer, selection_of
from cotrace.carry_over import transfer as judge
from cotrace.cli.console import STDOUT, Screen, check_figures, own_threads, quiet_libraries, write_figures
from cotrace.cli.judging import check_circuit
from cotrace.cli.options import Carrying
from cotrace.errors import InputError
from cotrace.interchange import circuits as known
from cotrace.models import LanguageModel
from cotrace.readout import Explanation, explain, predict
from cotrace.readout.changes import Progress
from cotrace.readout.explanation_files import NAMES, contents
from cotrace.results import Frontier, Selection
from cotrace.runs.addenda import prepare_again
from cotrace.runs.config import RunConfig
from cotrace.runs.manifest import add_files
from cotrace.runs.prepare import check_names, pose, settled, use_threads
from cotrace.runs.result_files import StoredRun, enough
from cotrace.selfcheck import ensure
from cotrace.tasks.catalogue import is_file

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


KINDS = ("task", "model", "split")


@own_threads()
def transfer(run: str, to: Sequence[str], asked: Carrying, *, json_path: str | None, quiet: bool = False) -> None:
    """Judge the run's set on each target, one after the other; every name and file is checked first."""
    if not to:
        raise InputError("nothing to carry the set to: give --to a task, a model or a split")
    check_figures(json_path)
    stored = StoredRun.read(run)
    frontier = stored.frontier(asked.search)
    chosen = selection_of(frontier, asked.k)
    targets = {target: settled(aimed(stored, frontier, target, asked), ("pursuit",)) for target in to}
    data = {target: config.load_task() for target, config in targets.items()}
    for target, config in targets.items():
        check_names(config, data[target])
    screen = Screen(quiet, as_json=json_path == STDOUT)
    quiet_libraries()
    models: dict[tuple[str, ...], LanguageModel] = {}
    found: dict[str, Transfer] = {}
    for target, config in targets.items():
        key = (config.model, str(config.revision))
        if key not in models:
            screen.note(f"loading {config.model}")
            models = {key: config.load_model()}
        use_threads(config, models[key])
        problem = pose(replace(config, donors=config.donors or data[target].donors), models[key], data[target])
        ensure(models[key], problem.space.sites)
        found[target] = judge(frontier, problem, k=chosen.k, controls=asked.controls, seed=config.seed)
        screen.say(found[target].table())
        screen.say(f"\n{found[target].verdict}\n")
    write_figures(json_path, {"targets": {name: one.to_dict() for name, one in found.items()}}, screen, "transfer")


def aimed(stored: StoredRun, frontier: Frontier, target: str, asked: Carrying) -> RunConfig:
    """The run's question put to the target; what belongs to the run's own data is the new data's own."""
    kind, name = kind_of(target, stored.config)
    sites = stored.config.sites or tuple(frontier.space.sites)
    same = replace(stored.config, sites=sites, direction=asked.direction, search_options={}, cost_weights=None)
    same = replace(same, searches=(), max_size=None, audit=0.0, search_pairs=None, out=None)
    if kind == "model":
        local = Path(name).is_dir()
        return replace(same, model=name, revision=None, gguf=same.gguf if local and same.gguf else None)
    metric = asked.metric or same.metric
    if kind == "split":
        return replace(same, split=name, metric=metric)
    own: dict[str, Any] = {"split": None, "conventions": None, "task_options": {}, "donors": None, "split_by": None}
    return replace(same, task=name, data=asked.data, metric=asked.metric, template_options={}, **own)


def kind_of(target: str, config: RunConfig) -> tuple[str, str]:
    """Whether a target is a task, a model or a split, and its name; ``task=``, ``model=`` and ``split=`` say it."""
    if found := re.fullmatch(rf"({'|'.join(KINDS)})=(.+)", target):
        return found[1], found[2]
    ways: Mapping[str, Callable[[], bool]] = {
        "task": lambda: target in tasks.TASKS or (is_file(target) and Path(target).is_file()),
        "model": lambda: target == "shipped" or Path(target).is_dir() or ("/" in target and not is_file(target)),
        "split": lambda: config.task in tasks.TASKS and target in tasks.named(config.task).splits,
    }
    kinds = [kind for kind, fits in ways.items() if fits()]
    if len(kinds) != 1:
        what = (
            f"may be a {' or a '.join(kinds)}"
            if kinds
            else f"is no task, no model's folder or id, and no split of {config.task}"
        )
        raise InputError(f"--to {target} {what}: write one of task=, model= and split= in front of it")
    return kinds[0], target
