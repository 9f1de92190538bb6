"""``cotrace tasks``: what can be asked, and what the pairs of a task look like."""

from __future__ import annotations

from dataclasses import replace

from cotrace import tasks
from cotrace.batches import Align
from cotrace.cli.libraries import quiet_libraries
from cotrace.cli.options import in_options
from cotrace.cli.pairs import pair_lines
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.prompts import Task


def list_tasks() -> None:
    """What each task asks, and beside it its size, metric, source and licence."""
    screen, width = Screen(), max(map(len, tasks.TASKS)) + 2
    for info in tasks.TASKS.values():
        facts = [f"pairs: {info.size}", info.metric, f"split {' or '.join(info.splits)}" if info.splits else ""]
        facts += [info.source, f"licence {info.licence}", f"needs --data: {info.data}" if info.needs_data else ""]
        screen.say(f"{info.name:{width}}{info.about}")
        screen.say(f"{'':{width}}{'; '.join(filter(None, facts))}", style="dim")
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
) -> None:
    """The first pairs of a task; with a model, their tokens too. Raises CotraceError."""
    if most < 1:
        raise InputError(f"most is {most}: ask for at least 1 pair")
    if model is None and align != "exact":
        raise InputError(f"--align {align} says how prompts cut by a tokenizer are aligned: give --model as well")
    task = tasks.load(name, data=data, split=split, conventions=conventions)
    screen = Screen()
    screen.say(f"{task.name}: {len(task)} pairs, judged by {task.metric} ({task.score} of the answer's tokens)")
    _say_skipped(task, screen)
    for pair in task.pairs[:most]:
        screen.say(f"\n{pair.id}")
        for line in pair_lines(pair):
            screen.say(line)
    if model is not None:
        _preview(task, model, most, align, screen)


def _say_skipped(task: Task, screen: Screen) -> None:
    if task.skipped:
        which, why = task.skipped[0]
        screen.say(f"{len(task.skipped)} records cannot be used; the first, {which}: {in_options(why)}")


def _preview(task: Task, model: str, most: int, align: Align, screen: Screen) -> None:
    """How the model's tokenizer cuts the pairs, how they align, and which of them it refuses."""
    from cotrace.models import load_model

    quiet_libraries()
    tokenizer = load_model(model).require_tokenizer()
    table = tasks.preview(task, tokenizer, most, align=align)
    screen.say(replace(table, rows=[(*row[:3], in_options(row[3])) for row in table.rows]))
