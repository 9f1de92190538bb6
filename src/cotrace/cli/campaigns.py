"""``cotrace sweep``, the cells of a grid; and ``cotrace reproduce``, the settings of a paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from cotrace.cli.console import Screen, own_threads, quiet_libraries
from cotrace.cli.runner import answer, go_on, resume, run
from cotrace.cli.summary import columns
from cotrace.errors import CotraceError, InputError, is_out_of_memory, unknown
from cotrace.report import drawn
from cotrace.results import Frontier
from cotrace.results.table import number
from cotrace.run_folder.folder import report_inputs
from cotrace.runs import RunDirectory
from cotrace.runs.campaign import REPORT, SUMMARY, Campaign, Cell, Outcome, read_grid, tables
from cotrace.runs.config import RunConfig
from cotrace.runs.directory import CONFIG, locked, write_atomically
from cotrace.runs.prepare import check_names, one_crew, prepare
from cotrace.runs.result_files import StoredRun
from cotrace.runs.writer import Begun
from cotrace.tasks import named
from cotrace.text.escape import visible


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
    """Run the open cells of a grid, then show and write the results of all. Raises CotraceError where cells failed."""
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
    """The work that a cell still needs."""
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
    """Run as many cells at a time as there are workers, each in a process of its own."""
    from cotrace.workers.cluster import MAX_RESTARTS, Side, side_by_side

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


METHODS = ("pgbct", "greedy", "topk", "random", "pursuit", "matryoshka")
"""The paper's method, the baselines that it is compared with there, then ours and the field's newest."""
PAGE = "README.md"


@dataclass(frozen=True)
class Setting:
    """One of the paper's settings: its data, sites and donors, as its own code has them."""

    task: str
    sites: tuple[str, ...]
    about: str
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_data(self) -> bool:
        """Whether the user has to bring the benchmark's files."""
        return named(self.task).data_use != "none"


PAPER = {"conventions": "paper"}
SETTINGS: Mapping[str, Setting] = {
    "winobias": Setting("winobias", ("attention_pattern",), "gender bias, attention heads", {**PAPER, "split": "dev"}),
    "winogender": Setting("winogender", ("attention_pattern",), "gender bias, attention heads", PAPER),
    "professions": Setting("professions", ("mlp_coordinate",), "gender bias, MLP outputs", PAPER),
    "counterfact": Setting("counterfact", ("mlp_coordinate",), "facts under noise, MLP outputs", PAPER),
    "binding": Setting("binding", ("head_output",), "a variable's value, attention heads"),
}
"""Name -> setting."""

PUBLISHED: Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]] = {
    ("winobias", "gpt2"): {
        "pgbct": {8: 0.107, 16: 0.110, 31: 0.115, 41: 0.117, 61: 0.119, 69: 0.120},
        "greedy": {11: 0.109, 16: 0.112, 31: 0.116, 41: 0.119, 61: 0.120, 71: 0.121, 91: 0.120},
        "topk": {11: 0.107, 16: 0.108, 31: 0.111, 41: 0.113, 61: 0.114, 91: 0.115},
        "everything": {144: 0.105},
    }
}
"""(setting, model) -> method -> k -> effect on all pairs, read off Yan et al.'s figure to within 0.0005 (the WinoBias
curve of GPT-2 small, https://github.com/ZiruiYan/multi-component-causal-tracing)."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The settings and the model of a reproduction."""

    settings: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    data: str | None = None
    search_pairs: int | None = None
    max_size: int | None = None
    seed: int = 0
    out: str = "reproduction"
    model: Mapping[str, Any] = field(default_factory=dict)
    """The model's own options of a run."""

    @property
    def names(self) -> tuple[str, ...]:
        """The settings asked for, in the paper's order. Raises UnknownName."""
        for name in self.settings:
            if name not in SETTINGS:
                raise unknown("setting of the paper", name, SETTINGS)
        return tuple(name for name in SETTINGS if name in self.settings or not self.settings)

    def config(self, name: str) -> RunConfig:
        """The run of one setting. Raises InputError where its data are not there."""
        setting = SETTINGS[name]
        data = str(self._folder(name)) if setting.needs_data else None
        options: dict[str, Any] = {**self.model, "data": data, "split": None, "conventions": None, **setting.own}
        return RunConfig(
            **options,
            task=setting.task,
            sites=setting.sites,
            searches=self.methods or METHODS,
            search_pairs=self.search_pairs,
            max_size=self.max_size,
            search_options={"pgbct": {"path": 6, "epochs": 30}} if "pgbct" in (self.methods or METHODS) else {},
            seed=self.seed,
            out=str(Path(self.out) / name),
        )

    def _folder(self, name: str) -> Path:
        if self.data is None:
            raise InputError(
                f"setting {name} needs the benchmark's files: give --data a folder with one folder a setting "
                f"({', '.join(one for one in self.names if SETTINGS[one].needs_data)}), or leave it out of --settings"
            )
        folder = Path(self.data) / name
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder} for setting {name}: put {named(name).data} there")
        return folder


def reproduce(asked: Asked, *, quiet: bool = False, as_json: bool = False) -> None:
    """Run every setting that is not finished, each in a folder of its own, and write the page. Raises CotraceError."""
    configs = {name: asked.config(name) for name in asked.names}
    for config in configs.values():  # every name and file is seen before the first model is loaded
        check_names(config, config.load_task())
    screen = Screen(quiet, as_json)
    for name, config in configs.items():
        folder = Path(str(config.out))
        screen.say(f"\n{name}: {SETTINGS[name].about}")
        one(config, folder, quiet=quiet or as_json)
        write_atomically(folder.parent / f"{name}.svg", drawn(report_inputs(str(folder)), "compare", "svg"))
        write_atomically(folder.parent / PAGE, page(asked).encode())
    written = Path(asked.out) / PAGE
    screen.say(f"\nWritten to {written}")
    found = {name: str(config.out) for name, config in configs.items()}
    screen.data("reproduce", lambda: {"written": str(written), "settings": found})


def one(config: RunConfig, folder: Path, *, quiet: bool) -> None:
    """Start a run, resume it, or leave it where it is finished. Raises InputError for another question's."""
    if not (folder / CONFIG).is_file():
        answer(config, METHODS, quiet=quiet)
        return
    begun = Begun.read(folder)
    for what in ("model", "searches", "search_pairs", "max_size", "seed"):
        was, now = getattr(begun.config, what), getattr(config, what)
        if what == "model" and Path(now).exists():
            now = str(Path(now).resolve())
        if was != now:
            raise InputError(
                f"{folder} is of {what} {was}, and {now} is asked for: give another --out, or the same again to go on"
            )
    if not begun.is_finished:
        resume(str(folder), quiet=quiet)


def page(asked: Asked) -> str:
    """The results so far as Markdown: one table and one figure for each setting."""
    lines = [
        "# The paper's settings again",
        "",
        "Yan et al. 2026, *Multi-component Causal Tracing in Large Language Models* (arXiv 2606.03085): its settings,",
        "as its own code has the pairs, sites and scores (`conventions=paper`), with its method (`pgbct`: a path of 6",
        "penalties, 30 epochs), its baselines, and ours. Effects are of held-out pairs, which no method saw; k is the",
        "number of components. What the paper's own figure shows is marked as published.",
    ]
    for name in asked.names:
        folder = Path(asked.out) / name
        if (folder / "manifest.json").is_file():
            lines += ["", *section(name, StoredRun.read(folder))]
    return "\n".join(lines) + "\n"


def section(name: str, run: StoredRun) -> list[str]:
    """One setting: question, table, figure."""
    first = run.frontiers[0]
    sizes = columns(run.frontiers)
    rule = ["---"] * (2 + len(sizes))
    rows = [["method", "cost", *(f"k = {k}" for k in sizes)], rule, *(row(one, sizes) for one in run.frontiers)]
    everything = first.full_effect if first.full_effect_heldout is None else first.full_effect_heldout
    return [
        f"## {name}: {SETTINGS[name].about}",
        "",
        f"{first.model}, {first.metric}, N = {len(first.space)} ({first.space.outline}). {first.summary}",
        f"Everything swapped: {number(everything)} held out.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        *published(name, first.model),
        f"![held-out effect by size]({name}.svg)",
    ]


def published(name: str, model: str) -> Iterator[str]:
    """Lines with the paper's own figures of this setting, where the model is the same."""
    methods = PUBLISHED.get((name, model.rstrip("/").split("/")[-1]), {})
    for method, effects in methods.items():
        yield f"- published, {method}: " + ", ".join(f"{number(effect)} (k = {k})" for k, effect in effects.items())
    if methods:
        yield from ("", "Published effects are of all pairs, read off the paper's figure to within 0.0005.", "")


def row(frontier: Frontier, sizes: Sequence[int]) -> list[str]:
    """The best set of at most each size, by its held-out effect where there is one."""
    cells = []
    for k in sizes:
        within = [one for one in frontier if one.k <= k]
        best = max(within, key=lambda one: frontier.sign * (one.effect or 0.0), default=None)
        effect = None if best is None else best.effect if best.effect_heldout is None else best.effect_heldout
        cells.append(number(effect) or "-")
    return [frontier.search, f"{frontier.forward_equivalents:,.0f}", *cells]
