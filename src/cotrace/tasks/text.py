"""Neutral text: the loss on every token, to see what an intervention costs where nothing should change."""

from __future__ import annotations

from pathlib import Path

from cotrace.arguments import checked
from cotrace.errors import InputError
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.shipped import NEUTRAL_TEXT
from cotrace.tasks.files import read_text
from cotrace.tasks.info import TaskInfo


@checked("ct.tasks.text")
def text(path: str | Path | None = None, *, most: int | None = None) -> Task:
    """One example a line: every token is scored but the first, before which nothing stands.

    A beginning-of-sequence token, where the tokenizer puts one, is the first, so that then every token of the text is
    scored. ``path`` is a UTF-8 file with one passage a line (default: the neutral text that ships); ``most`` takes its
    first lines. The metric is ``nll`` per token; there is no counterfactual, so donors need a source of their own
    (docs/goals.md). Raises InputError.
    """
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
        name="text",
        pairs=tuple(pairs[:most]),
        metric="nll",
        score="mean",
        encoding="text",
        donors="mean=task",
        source="ships with cotrace" if path == NEUTRAL_TEXT else path.name,
        skipped=tuple(skipped),
    )


def _pair(name: str, line: str) -> PromptPair:
    """The line, cut behind its first word for people; the tokens are cut behind the first of them."""
    first = line.split()[0]
    return PromptPair(id=name, base=first, answers=(line[len(first) :],))


INFO = TaskInfo(
    name="text",
    about="the loss on every token of a neutral text",
    source="yours; one ships with cotrace",
    licence="MIT (the text that ships)",
    size="one a line of the text",
    metric="nll",
    data="a text file with one passage a line; without it the text that ships",
    data_use="optional",
    load=text,
)
