"""Tasks from pair files: the user's own, and those that ship with the demo model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from cotrace.arguments import checked
from cotrace.errors import unknown
from cotrace.prompts.task import Encoding, Score, Task
from cotrace.shipped import pairs
from cotrace.tasks.info import TaskInfo


@checked("ct.tasks.jsonl")
def jsonl(path: str | Path, *, metric: str = "log_odds", score: Score = "sum", encoding: Encoding = "joint") -> Task:
    """Task from a JSON Lines file of the user's own (docs/data-format.md). Raises InputError naming the line.

    ``score``: an answer's tokens summed (``sum``) or averaged (``mean``). ``encoding``: its tokens are what prompt and
    answer together add (``joint``), its own (``alone``), or both are one text (``text``).
    """
    for kind, given, options in (("score", score, get_args(Score)), ("encoding", encoding, get_args(Encoding))):
        if given not in options:
            raise unknown(kind, given, options)
    return replace(Task.from_jsonl(path, metric=metric), score=score, encoding=encoding)


def demo_bias() -> Task:
    """She or he after an occupation or a name, in the words of the demo model: a bias planted on purpose."""
    return _demo("bias")


def demo_agreement() -> Task:
    """Is or are after a subject and a distracting noun, in the words of the demo model."""
    return _demo("agreement")


def demo_copying() -> Task:
    """Which of two names comes next, in the words of the demo model."""
    return _demo("copying")


def demo_conflict() -> Task:
    """She or he where a name and an occupation disagree, in the words of the demo model."""
    return _demo("conflict")


def _demo(name: str) -> Task:
    return replace(Task.from_jsonl(pairs(name)), name=f"demo_{name}", source="ships with cotrace")


INFOS = (
    TaskInfo(
        name="jsonl",
        about="a file of your own, one JSON object a line",
        source="yours",
        licence="yours",
        size="as many as the file has",
        metric="log_odds",
        data="a JSON Lines file (docs/data-format.md)",
        data_use="needed",
        load=jsonl,
    ),
    *(
        TaskInfo(
            name=load.__name__,
            about=(load.__doc__ or "").rstrip("."),
            source="ships with cotrace (docs/demo-model.md)",
            licence="MIT",
            size=size,
            metric="log_odds",
            load=load,
        )
        for load, size in (
            (demo_bias, "200"),
            (demo_agreement, "120"),
            (demo_copying, "120"),
            (demo_conflict, "120"),
        )
    ),
)
