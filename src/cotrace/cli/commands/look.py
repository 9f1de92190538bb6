"""Look before a search: ``measure``, ``check``, ``tasks``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from cotrace.cli.options import SHOWN, Showing
from cotrace.runs.config import RunConfig


def measure(
    model: str,
    task: str,
    *,
    data: str | None = None,
    split: str | None = None,
    conventions: Literal["corrected", "paper"] | None = None,
    metric: str | None = None,
    by: str | None = None,
    revision: str | None = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    json: str | None = None,
    show: Showing = SHOWN,
) -> None:
    """Say what the model does with a task, before any search: base and donor values, flips, by subgroup.

    Parameters
    ----------
    model
        Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace.
    task
        Name of a task (see `cotrace tasks`), or a JSON Lines file of your own pairs.
    data
        File or folder with the task's own data.
    split
        The benchmark's own part, such as dev or test.
    conventions
        How a benchmark is read and scored: corrected or paper.
    metric
        What is measured: a name, package.module:function or path/to/file.py:function. Default: the task's own.
    by
        Fields of the pairs to break the figures down by, separated by commas. Default: group.
    revision
        Branch, tag or commit of the model.
    dtype
        Number type of the weights.
    device
        Where the model runs, such as cpu or cuda:0.
    json
        File to write the figures to; --json=- prints them on stdout, and nothing else there.
    """
    from cotrace.cli import measure as module

    config = RunConfig(
        model=model,
        task=task,
        data=data,
        split=split,
        conventions=conventions,
        metric=metric,
        revision=revision,
        dtype=dtype,
        device=device,
    )
    module.measure(config, by=by, json_path=json, quiet=show.quiet)


def check(
    model: str,
    *,
    task: str = "",
    data: str | None = None,
    split: str | None = None,
    conventions: Literal["corrected", "paper"] | None = None,
    sites: tuple[str, ...] = (),
    revision: str | None = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    json: str | None = None,
    row: Annotated[bool, Parameter(negative="")] = False,
    show: Showing = SHOWN,
) -> None:
    """Show that patches are right on a model: mask 0 changes nothing, mask 1 is the donor, nothing leaks.

    Parameters
    ----------
    model
        Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace.
    task
        Also say whether the pairs of this task line up by token.
    data
        File or folder with the task's own data.
    split
        The benchmark's own part, such as dev or test.
    conventions
        How a benchmark is read and scored: corrected or paper.
    sites
        Sites to check. Default: all that the model has.
    revision
        Branch, tag or commit of the model.
    dtype
        Number type of the weights.
    device
        Where the model runs, such as cpu or cuda:0.
    json
        File to write the figures to; --json=- prints them on stdout, and nothing else there.
    row
        Print one row for the table of checkpoints in the documentation instead.
    """
    from cotrace.cli import check as module

    config = RunConfig(
        model=model,
        task=task,
        data=data,
        split=split,
        conventions=conventions,
        sites=sites,
        revision=revision,
        dtype=dtype,
        device=device,
    )
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
