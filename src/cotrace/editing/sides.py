"""Side effects: what an edit may not break, and the bounds that it is held to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cotrace.errors import InputError, unknown
from cotrace.models import LanguageModel
from cotrace.problem.side import UnknownText, high_loss, loss_of
from cotrace.prompts import Task
from cotrace.results.outcomes import Harm
from cotrace.shipped import SHIPS
from cotrace.showing import warn
from cotrace.tasks.text import suited, text

NEUTRAL = "neutral"
HARM_WORDS = {"rise": "{}: rise of {}", "fall": "{}: fall of {}", "change": "{}: change of {}"}
_BOUND = re.compile(r"\s*(?P<name>[\w./-]+)\s*<=\s*(?P<amount>\d+(\.\d+)?)\s*(?P<percent>%?)\s*")


@dataclass(frozen=True, kw_only=True)
class Side:
    """A task that an edit should leave as it is."""

    name: str
    """What constraints call it."""
    task: Task
    metric: str
    harm: Harm
    suits: bool = False
    """Whether the task is to be the neutral text, of those that ship, that the model knows better."""
    most: int | None = None
    """Most lines of that text."""
    settled: bool = False
    """Whether it has been fitted to a model."""

    def of(self, model: LanguageModel) -> Side:
        """The side for this model, once. Warns where the model does not know the text. Raises InputError."""
        if self.settled:
            return self
        task = suited(model, most=self.most) if self.suits else self.task
        if task.source.endswith(SHIPS) and (said := high_loss(model, task, loss_of(model, task))):
            warn(said, UnknownText)
        return replace(self, task=task, settled=True)

    @property
    def words(self) -> str:
        """The harm in words, for the head of a column."""
        return HARM_WORDS[self.harm].format(self.name, self.metric)


def neutral(path: str | Path | None = None, *, most: int | None = None) -> Side:
    """The next-token loss on a neutral text: a file with one passage a line, or the one that suits the model.

    Without ``path`` it is the one of the two texts that ship which the edited model knows better.
    """
    return Side(name=NEUTRAL, task=text(path, most=most), metric="nll", harm="rise", suits=path is None, most=most)


def second_task(task: Task, *, metric: str = "accuracy", harm: Harm = "fall") -> Side:
    """Another task: by default the share of pairs whose right answer (the label, or else the target) is on top."""
    return Side(name=task.name, task=task, metric=metric, harm=harm)


@dataclass(frozen=True)
class Limit:
    """The most harm that an edit may do to one side."""

    name: str
    most: float

    @classmethod
    def parse(cls, words: str) -> Limit:
        """``neutral<=1%`` or ``demo_agreement<=0.02``: a share. Raises InputError."""
        match = _BOUND.fullmatch(words)
        if match is None:
            raise InputError(f"constraint {words!r}: write NAME<=SHARE, as in neutral<=1% or demo_agreement<=0.02")
        return cls(match["name"], float(match["amount"]) / (100 if match["percent"] else 1))

    @property
    def words(self) -> str:
        """The bound as it is written."""
        return f"{self.name}<={self.most:.3g}"


def check_limits(limits: Sequence[Limit], sides: Sequence[Side]) -> None:
    """Raises UnknownName for a bound on something that is not measured."""
    names = [side.name for side in sides]
    for limit in limits:
        if limit.name not in names:
            raise unknown("side effect", limit.name, names)
