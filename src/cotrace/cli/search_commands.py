"""Commands that ask: ``demo``, ``trace``, ``compare``, ``resume``; first ``measure``, ``check``, and ``tasks``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from cyclopts import App

from cotrace.cli.options import (
    ALONE,
    OPENED,
    PLAIN,
    SAID,
    SHOWN,
    ConfigFile,
    DryRun,
    Handed,
    Names,
    Opens,
    Options,
    Saying,
    Showing,
    Sourced,
    Switch,
)
from cotrace.runs.config import RunConfig


def demo(*, out: str | None = None, show: Showing = SHOWN) -> None:
    """The whole journey on the model that ships: five searches on one question, compared, in under a minute.

    Parameters
    ----------
    out
        New folder for the results. Default: cotrace-demo, or the next free name.
    """
    from cotrace.cli import runner as module

    module.demo(out, quiet=show.quiet, as_json=show.as_json)


def trace(
    *,
    options: Options,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    show: Showing = SHOWN,
) -> None:
    """Find the best set of components for every size k.

    Parameters
    ----------
    config
        A config.yaml whose fields are used where no option says otherwise; replays a run.
    dry_run
        Say what would be done and what it would cost, and stop.
    """
    ahead(options, show)
    from cotrace.cli.runner import answer

    answer(options, ("pursuit",), dry_run=dry_run, quiet=show.quiet, as_json=show.as_json)


def compare(
    *,
    options: Options,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    show: Showing = SHOWN,
) -> None:
    """Put one question to several searches: frontiers in one figure, costs side by side.

    Parameters
    ----------
    config
        A config.yaml whose fields are used where no option says otherwise; replays a run.
    dry_run
        Say what would be done and what it would cost, and stop.
    """
    ahead(options, show)
    from cotrace.cli.runner import COMPARED, answer

    answer(options, COMPARED, dry_run=dry_run, quiet=show.quiet, as_json=show.as_json)


def ahead(options: Options, show: Showing) -> None:
    """Print the question before heavy imports, which alone take seconds."""
    from cotrace.cli.console import Screen

    searches = f" by {', '.join(options.searches)}" if options.searches else ""
    screen = Screen(show.quiet)
    if screen.progress.is_terminal:
        screen.note(f"asked: {options.model} on {options.task}{searches}; loading the libraries")


def resume(
    run: str,
    *,
    batch_tokens: int | None = None,
    opening: Opens = OPENED,
    hands: Handed = ALONE,
    show: Showing = SHOWN,
) -> None:
    """Go on with a run that was killed, interrupted or ran out of room, to the same files as if it never had been.

    Parameters
    ----------
    run
        Folder of the run.
    batch_tokens
        Most tokens in one forward pass from here on, where memory ran out. Last digits may differ then.
    """
    from cotrace.cli.runner import resume as go_on

    with opening.trusting():
        go_on(run, batch_tokens=batch_tokens, quiet=show.quiet, as_json=show.as_json, workers=hands.of_workers)


def sweep(
    grid: str,
    *,
    out: str | None = None,
    dry_run: DryRun = False,
    hands: Handed = ALONE,
    show: Showing = SHOWN,
) -> None:
    """Run a grid of models, tasks, sites, donors, seeds and searches as one campaign that can be gone on with.

    Cells that are done are never run again; one that fails is listed with its reason, and the rest goes on.

    Parameters
    ----------
    grid
        YAML file with the lists models and tasks, and maybe sites, donors, seeds, searches; common holds what all runs
        share.
    out
        Folder of the campaign, new or its own. Default: runs/ and the name of the grid.
    dry_run
        List the cells and what is left to do, and stop.
    """
    from cotrace.cli.campaigns import sweep as go

    go(grid, out=out, workers=hands.of_workers, dry_run=dry_run, quiet=show.quiet, as_json=show.as_json)


def measure(
    model: str,
    task: str,
    *,
    metric: str | None = None,
    by: Names = (),
    json: str | None = None,
    source: Sourced = PLAIN,
    show: Saying = SAID,
) -> None:
    """Say what the model does with a task, before any search: base and donor values, flips, by subgroup.

    Parameters
    ----------
    model
        Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace.
    task
        Name of a task (see `cotrace tasks`), or a file of your own pairs (JSON Lines, CSV, TSV).
    metric
        What is measured: a name, package.module:function or path/to/file.py:function. Default: the task's own.
    by
        Fields of the pairs to break the figures down by, separated by commas. Default: group.
    json
        Print the figures as one JSON object on stdout, and nothing else there; --json FILE writes them to a new file.
    """
    from cotrace.cli import inspection as module

    config = RunConfig(**asdict(source), model=model, task=task, metric=metric)
    module.measure(config, by=by, json_path=json, quiet=show.quiet)


def reproduce(
    what: Literal["paper"],
    *,
    model: str,
    settings: Names = (),
    methods: Names = (),
    search_pairs: int | None = None,
    max_size: int | None = None,
    seed: int = 0,
    out: str = "reproduction",
    source: Sourced = PLAIN,
    show: Showing = SHOWN,
) -> None:
    """Run the settings of the paper with its methods and ours: a run, a table and a figure each, on one page.

    What was begun before is gone on with, and what is finished is left as it is.

    Parameters
    ----------
    what
        paper: Yan et al. 2026, arXiv 2606.03085.
    model
        Hugging Face id or folder of a decoder.
    settings
        winobias, winogender, professions, counterfact and binding, separated by commas. Default: all. --data holds one
        folder for each of the first four.
    methods
        Searches, separated by commas. Default: pgbct,greedy,topk,random,pursuit,matryoshka.
    search_pairs
        Search on this many training pairs only, for small machines. Default: all.
    max_size
        Largest number of components. Default: all.
    seed
        Seed of the holdout and of the searches that draw.
    out
        Folder for the runs and the page.
    """
    from cotrace.cli import campaigns as module

    asked = module.Asked(
        settings=settings,
        methods=methods,
        data=source.data,
        search_pairs=search_pairs,
        max_size=max_size,
        seed=seed,
        out=out,
        model=asdict(source) | {"model": model},
    )
    module.reproduce(asked, quiet=show.quiet, as_json=show.as_json)


def check(
    model: str,
    *,
    task: str = "",
    donors: str | None = None,
    align: Literal["exact", "ends", "spans"] = "exact",
    sites: Names = (),
    layers: str | None = None,
    json: str | None = None,
    row: Switch = False,
    source: Sourced = PLAIN,
    show: Saying = SAID,
) -> None:
    """Show that patches are right on a model: mask 0 changes nothing, mask 1 is the donor, nothing leaks.

    Parameters
    ----------
    model
        Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace.
    task
        Also say whether the pairs of this task line up by token.
    donors
        Donors that those pairs are read for, as in `cotrace trace`. Default: the task's own.
    align
        Position by position, other lengths refused (exact); at the common ends only; or at the spans that pairs name.
    sites
        Sites to check, whole or narrowed as in `cotrace trace` (L4.head2, L4.*, the folder of a run): then in the
        layers of what is named. Default: all that the model has.
    layers
        Layers to check them in, such as 8..16 (both included) or 0,3,8..16. Default: all.
    json
        Print the figures as one JSON object on stdout, and nothing else there; --json FILE writes them to a new file.
    row
        Print one row for the table of checkpoints in the documentation instead.
    """
    from cotrace.cli import inspection as module

    where: dict[str, Any] = {"sites": sites, "layers": layers, "donors": donors, "align": align}
    config = RunConfig(**asdict(source), **where, model=model, task=task)
    module.check(config, row=row, json_path=json, quiet=show.quiet)


def tasks() -> App:
    """The ``tasks`` commands."""
    group = App(name="tasks", help="List the tasks, or show the pairs of one.")
    group.default(list_tasks)
    group.command(show_task, name="show")
    return group


def list_tasks(*, show: Showing = SHOWN) -> None:
    """List the tasks: source, licence, metric, sites."""
    from cotrace.cli import inspection as module

    module.list_tasks(as_json=show.as_json)


def show_task(
    name: str,
    *,
    data: str | None = None,
    split: str | None = None,
    conventions: str | None = None,
    model: str | None = None,
    most: int = 5,
    align: Literal["exact", "ends", "spans"] = "exact",
    show: Showing = SHOWN,
) -> None:
    """Show the pairs of one task.

    Parameters
    ----------
    name
        Name of a task, or a file of your own pairs.
    data
        File or folder with the task's own data.
    split
        The benchmark's own part, such as dev or test.
    conventions
        How a benchmark is read and scored: corrected or paper.
    model
        Also show how this model's tokenizer cuts the pairs.
    most
        How many pairs to show.
    align
        With a model: how prompts of other lengths are aligned, as in a run.
    """
    from cotrace.cli import inspection as module

    module.show_task(
        name,
        data=data,
        split=split,
        conventions=conventions,
        model=model,
        most=most,
        align=align,
        as_json=show.as_json,
    )
