"""``cotrace tasks``: what can be asked, and what the pairs of a task look like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cotrace import tasks
from cotrace.batches import Align
from cotrace.cli.libraries import quiet_libraries
from cotrace.cli.options import in_options
from cotrace.cli.pairs import pair_lines
from cotrace.cli.replies import TaskInfoReply
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.prompts import Task
from cotrace.prompts.record import record_of
from cotrace.results import Table


def list_tasks(as_json: bool = False) -> None:
    """What each task asks, and beside it its size, metric, source and licence."""
    screen, width = Screen(as_json=as_json), max(map(len, tasks.TASKS)) + 2
    for info in tasks.TASKS.values():
        facts = [f"pairs: {info.size}", info.metric, f"split {' or '.join(info.splits)}" if info.splits else ""]
        facts += [info.source, f"licence {info.licence}", f"needs --data: {info.data}" if info.needs_data else ""]
        screen.say(f"{info.name:{width}}{info.about}")
        screen.say(f"{'':{width}}{'; '.join(filter(None, facts))}", style="dim")
    names = TaskInfoReply.model_fields
    screen.data("tasks", lambda: {"tasks": [{n: getattr(info, n) for n in names} for info in tasks.TASKS.values()]})
    screen.say("\nLook at one with: cotrace tasks show NAME [--data DIR] [--model MODEL]")


def show_task(
    name: str,
    *,
    data: str | None,
    split: str | None,
    conventions: str | None,
    model: str | None,
    most: int,
    align: Align,
    as_json: bool = False,
) -> None:
    """The first pairs of a task; with a model, their tokens too. Raises CotraceError."""
    if most < 1:
        raise InputError(f"most is {most}: ask for at least 1 pair")
    if model is None and align != "exact":
        raise InputError(f"--align {align} says how prompts cut by a tokenizer are aligned: give --model as well")
    task = tasks.load(name, data=data, split=split, conventions=conventions)
    screen = Screen(as_json=as_json)
    screen.say(f"{task.name}: {len(task)} pairs, judged by {task.metric} ({task.score} of the answer's tokens)")
    _say_skipped(task, screen)
    for pair in task.pairs[:most]:
        screen.say(f"\n{pair.id}")
        for line in pair_lines(pair):
            screen.say(line)
    table = None if model is None else _preview(task, model, most, align)
    if table is not None:
        screen.say(table)
    screen.data("tasks show", lambda: _shown(task, most, table))


def _say_skipped(task: Task, screen: Screen) -> None:
    if task.skipped:
        which, why = task.skipped[0]
        screen.say(f"{len(task.skipped)} records cannot be used; the first, {which}: {in_options(why)}")


def _shown(task: Task, most: int, table: Table | None) -> dict[str, Any]:
    rows = [] if table is None else [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {
        "task": task.name,
        "metric": task.metric,
        "score": task.score,
        "pairs": len(task),
        "shown": [record_of(pair) for pair in task.pairs[:most]],
        "skipped": list(task.skipped),
        "tokens": rows,
    }


def _preview(task: Task, model: str, most: int, align: Align) -> Table:
    """How the model's tokenizer cuts the pairs, how they align, and which of them it refuses."""
    from cotrace.models import load_model

    quiet_libraries()
    tokenizer = load_model(model).require_tokenizer()
    table = tasks.preview(task, tokenizer, most, align=align)
    return replace(table, rows=[(*row[:3], in_options(row[3])) for row in table.rows])
