"""Look before a search: ``measure``, ``check``, ``tasks``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from cotrace.cli.options import PLAIN, SHOWN, Showing, Sourced


def measure(
    model: str,
    task: str,
    *,
    metric: str | None = None,
    by: str | None = None,
    json: str | None = None,
    source: Sourced = PLAIN,
    show: Showing = SHOWN,
) -> None:
    """Say what the model does with a task, before any search: base and donor values, flips, by subgroup.

    Parameters
    ----------
    model
        Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace.
    task
        Name of a task (see `cotrace tasks`), or a JSON Lines file of your own pairs.
    metric
        What is measured: a name, package.module:function or path/to/file.py:function. Default: the task's own.
    by
        Fields of the pairs to break the figures down by, separated by commas. Default: group.
    json
        New file to write the figures to; --json=- prints them on stdout, and nothing else there.
    """
    from cotrace.cli import measure as module

    config = source.config(model=model, task=task, metric=metric)
    module.measure(config, by=by, json_path=json, quiet=show.quiet)


def check(
    model: str,
    *,
    task: str = "",
    donors: str | None = None,
    align: Literal["exact", "ends", "spans"] = "exact",
    sites: tuple[str, ...] = (),
    json: str | None = None,
    row: Annotated[bool, Parameter(negative="")] = False,
    source: Sourced = PLAIN,
    show: Showing = SHOWN,
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
        Sites to check. Default: all that the model has.
    json
        New file to write the figures to; --json=- prints them on stdout, and nothing else there.
    row
        Print one row for the table of checkpoints in the documentation instead.
    """
    from cotrace.cli import check as module

    config = source.config(model=model, task=task, sites=sites, donors=donors, align=align)
    module.check(config, row=row, json_path=json, quiet=show.quiet)


def tasks() -> App:
    """The ``tasks`` commands."""
    group = App(name="tasks", help="List the tasks, or show the pairs of one.")
    group.default(list_tasks)
    group.command(show_task, name="show")
    return group


def list_tasks(*, show: Showing = SHOWN) -> None:
    """List the tasks: source, licence, metric, sites."""
    from cotrace.cli import tasks as module

    module.list_tasks()


def show_task(
    name: str,
    *,
    data: str | None = None,
    split: str | None = None,
    conventions: str | None = None,
    model: str | None = None,
    most: int = 5,
    show: Showing = SHOWN,
) -> None:
    """Show the pairs of one task.

    Parameters
    ----------
    name
        Name of a task, or a JSON Lines file.
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
    """
    from cotrace.cli import tasks as module

    module.show_task(name, data=data, split=split, conventions=conventions, model=model, most=most)
