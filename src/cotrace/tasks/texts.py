"""Tasks made of files: pairs of the user's own, pairs that ship, and plain texts for side effects."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cotrace.errors import InputError, unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Encoding, Score, Task
from cotrace.shipped import ENGLISH_TEXT, NEUTRAL_TEXT, SHIPS, pairs
from cotrace.tasks._files import TaskInfo
from cotrace.text.files import read_text
from cotrace.validation import check_kind, checked

if TYPE_CHECKING:
    from cotrace.models import LanguageModel


@checked("ct.tasks.jsonl")
def jsonl(path: str | Path, *, metric: str = "log_odds", score: Score = "sum", encoding: Encoding = "joint") -> Task:
    """Task from a JSON Lines file of the user's own (docs/data-format.md). Raises InputError naming the line.

    ``score``: an answer's tokens summed (``sum``) or averaged (``mean``). ``encoding``: its tokens are what prompt and
    answer together add (``joint``), its own (``alone``), or both are one text (``text``).

    Args:
        path: The file; ``.csv`` and ``.tsv`` are read as tables.
        metric: Name of the metric that the task is judged by.
    """
    for kind, given, options in (("score", score, get_args(Score)), ("encoding", encoding, get_args(Encoding))):
        if given not in options:
            raise unknown(kind, given, options)
    return replace(Task.from_jsonl(path, metric=metric), score=score, encoding=encoding)


def demo_bias() -> Task:
    """She or he after an occupation or a name, in the words of the demo model: a bias planted on purpose."""
    return _demo("bias")


def demo_agreement() -> Task:
    """*Is* or *are* after a subject and a distracting noun, in the words of the demo model."""
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


SHIPPED = {NEUTRAL_TEXT: "text_toy", ENGLISH_TEXT: "text_english"}
"""The texts that ship, and what the task is called that is made of one."""


@checked("ct.tasks.text")
def text(path: str | Path | None = None, *, most: int | None = None, model: Any = None) -> Task:
    """One example a line: every token is scored but the first, before which nothing stands.

    A beginning-of-sequence token, where the tokenizer puts one, is the first, so that then every token of the text is
    scored. ``path`` is a UTF-8 file with one passage a line. Without it one of the two texts that ship is taken: with
    ``model`` the one of which that model's loss is lower, else the toy text, which only the model that ships knows.
    ``most`` takes the first lines. The metric is ``nll`` per token; there is no counterfactual, so donors need a source
    of their own (docs/metrics.md). Raises InputError.
    """
    if path is None and model is not None:
        return suited(model, most=most)
    path = Path(path or NEUTRAL_TEXT)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a text file with one passage a line")
    if most is not None and most < 1:
        raise InputError(f"most is {most}: take at least 1 line")
    pairs: list[PromptPair] = []
    skipped: list[tuple[str, str]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if len(line.split()) > 1:
            pairs.append(_pair(f"line {number}", line.strip()))
        elif line.strip():
            skipped.append((f"line {number}", "a single word: nothing follows it that could be scored"))
    return Task(
        name=SHIPPED.get(path, "text"),
        pairs=tuple(pairs[:most]),
        metric="nll",
        score="mean",
        encoding="text",
        donors="mean=task",
        source=f"{path.name}, {SHIPS}" if path in SHIPPED else path.name,
        skipped=tuple(skipped),
    )


def _pair(name: str, line: str) -> PromptPair:
    """The line, cut behind its first word for people; the tokens are cut behind the first of them."""
    first = line.split()[0]
    return PromptPair(id=name, base=first, answers=(line[len(first) :],))


def suited(model: LanguageModel, *, most: int | None = None) -> Task:
    """Return the shipped text on which the model's loss is lower. Raises InputError if its tokenizer reads neither."""
    from cotrace.models import LanguageModel
    from cotrace.problem.goals import loss_of  # importing tasks loads no torch

    check_kind("ct.tasks.text", "model", model, LanguageModel)
    texts = [text(path, most=most) for path in SHIPPED]
    losses = [loss_of(model, each) for each in texts]
    if min(losses) == math.inf:
        raise InputError("the model's tokenizer cannot read the neutral texts that ship: name a file with another text")
    return texts[losses.index(min(losses))]


INFO = TaskInfo(
    name="text",
    about="the loss on every token of a neutral text",
    source="yours; two ship with cotrace",
    licence="MIT and CC0 (the texts that ship)",
    size="one a line of the text",
    metric="nll",
    data="a text file with one passage a line; without it the one of the texts that ship which the model knows better",
    data_use="optional",
    load=text,
)
