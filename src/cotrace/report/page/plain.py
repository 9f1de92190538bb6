"""The sentences of the first screen, one file for each language that the report speaks (assets/sentences.*.yaml).

Probabilities are of the answers that a pair offers, so they add up to one; of a pair with one answer it is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from jaxtyping import Bool, Float

from cotrace.errors import InputError, unknown
from cotrace.results import Frontier, Selection
from cotrace.results.outcomes import Outcome, Shift
from cotrace.statistics import Units, mean_intervals
from cotrace.text.escape import json_bytes
from cotrace.text.files import made_of, parse_json

if TYPE_CHECKING:
    from cotrace.problem import LanguageProblem
    from cotrace.prompts import PromptPair

LANGUAGES = ("en", "de")


@cache
def sentences(language: str) -> Mapping[str, str]:
    """The table of a language. Raises UnknownName."""
    if language not in LANGUAGES:
        raise unknown("language", language, LANGUAGES)
    text = files("cotrace.report").joinpath("assets", f"sentences.{language}.yaml").read_text("utf-8")
    found: dict[str, str] = yaml.safe_load(text)
    return found


PLAIN = "plain.json"
"""Name of the file in a run's folder."""
SAME = 0.9
"""Share of the pairs that must offer the same answers for these to be spoken of by their words."""
MOST_ANSWERS, MOST_GROUPS = 4, 24
Table = Float[np.ndarray, "example answer"]
Values = Float[np.ndarray, "example"]


@dataclass(frozen=True)
class AnswerShift:
    """The share of one answer. ``answer`` is empty where pairs offer different ones: then it is the target."""

    answer: str
    share: Shift


@dataclass(frozen=True)
class GroupShift:
    """One group, or all pairs: how often the favourable answer is chosen, and how often the right one."""

    group: str
    rate: Shift | None
    """None where pairs name no favourable answer."""
    accuracy: Shift | None
    """None where a pair has one answer only."""


@dataclass(frozen=True)
class Plain:
    """The figures of one selection, on held-out pairs where there are some."""

    search: str
    components: tuple[str, ...]
    part: str
    """``heldout`` or ``training``."""
    answers: tuple[AnswerShift, ...]
    groups: tuple[GroupShift, ...]
    """All pairs first; empty where there is neither a rate nor an accuracy."""
    odds: Shift | None = None
    """Log-odds of the target against the others; None where pairs have one answer."""

    @property
    def spoken(self) -> AnswerShift:
        """The answer that is spoken of: the one whose share moves most, of two that move alike the one that rises."""
        return max(self.answers, key=lambda one: (round(abs(one.share.change), 9), one.share.change))

    def to_json(self) -> bytes:
        """The content of ``plain.json``."""
        return json_bytes({"schema": 1, **asdict(self)}, indent=None)

    @classmethod
    def from_json(cls, text: str, where: str = PLAIN) -> Plain:
        """Inverse of ``to_json``. Raises InputError for a file that is something else."""
        try:
            made = made_of(cls, parse_json(text, where))
        except ValueError as error:
            raise InputError(
                f"{where} is not what a run writes ({error}); delete it for a report without shares of answers"
            ) from None
        if not made.answers:
            raise InputError(f"{where} holds no answer; delete it for a report without shares of answers")
        return made


def plain_of(problem: LanguageProblem, frontier: Frontier, selection: Selection) -> Plain | None:
    """The figures of one selection, on unseen pairs where there are some; its one evaluation is not counted as cost.

    None where the metric reads something else than scores of answers, and for several draws of noise, whose effects
    are averaged but whose scores are not.

    Args:
        problem: The problem of the frontier.
        frontier: The frontier.
        selection: One of its selections.
    """
    view, name = (problem, "training") if problem.heldout is None else (problem.heldout, "heldout")
    part = view.part
    if part.metric.reads != "answers" or part.draws:
        return None
    known = {one.pair.id: one.pair for one in problem.encoding.pairs}
    pairs = [known[one] for one in part.ids]
    chosen = view.masks(list(selection.components))
    under = part.scorer.scores(chosen[None], None)[0]
    before, after = _numbers(part.scorer.base), _numbers(under)
    units = Units.made(len(pairs), _numbers(part.weights), view.clusters)
    both = _Both(pairs, before, after, units)
    return Plain(
        frontier.search, tuple(selection.components), name, tuple(both.answers()), tuple(both.groups()), both.odds()
    )


def _numbers(table: Any) -> Float[np.ndarray, "..."]:
    return np.asarray(table.detach().double().cpu())


@dataclass(frozen=True)
class _Both:
    """Scores of a part's pairs before and under a set."""

    pairs: Sequence[PromptPair]
    before: Table
    after: Table
    units: Units

    @cached_property
    def _offered(self) -> Bool[np.ndarray, "example answer"]:
        """Whether a pair has the answer."""
        counts = np.array([len(pair.answers) for pair in self.pairs])
        return np.asarray(np.arange(self.before.shape[1]) < counts[:, None])

    @property
    def alone(self) -> bool:
        """Whether some pair has one answer."""
        return any(len(pair.answers) < 2 for pair in self.pairs)

    def answers(self) -> Iterator[AnswerShift]:
        """Return shares by the answers' words where pairs offer the same, else that of the target."""
        words = list(dict.fromkeys(answer for pair in self.pairs for answer in pair.answers))
        shares = [self._shares(table) for table in (self.before, self.after)]
        targets = [pair.answers[pair.target] for pair in self.pairs]
        same = max(map(targets.count, set(targets))) >= SAME * len(targets)
        if self.alone or len(words) > MOST_ANSWERS or not same:
            at = [pair.target for pair in self.pairs]
            yield AnswerShift("", self._shift(*(_at(table, at) for table in shares)))
            return
        for word in words:
            yield AnswerShift(word, self._shift(*(self._of_word(table, word) for table in shares)))

    def _of_word(self, table: Table, word: str) -> Values:
        """The share of an answer by its words; 0 where a pair does not offer it."""
        offered = [pair.answers for pair in self.pairs]
        return np.array([row[one.index(word)] if word in one else 0.0 for row, one in zip(table, offered, strict=True)])

    def groups(self) -> Iterator[GroupShift]:
        """All pairs, then each group."""
        if self.alone:
            return
        chosen = [self._chosen(table) for table in (self.before, self.after)]
        right = np.array([pair.target if pair.label is None else pair.label for pair in self.pairs])
        favoured = [pair.favourable for pair in self.pairs]
        rated = None if None in favoured else np.array(favoured)
        yield self._group("", range(len(self.pairs)), chosen, right, rated)
        names = sorted({pair.group for pair in self.pairs if pair.group is not None})
        for name in names[:MOST_GROUPS]:
            members = [i for i, pair in enumerate(self.pairs) if pair.group == name]
            yield self._group(name, members, chosen, right, rated)

    def odds(self) -> Shift | None:
        """Mean log-odds of the target against all other answers."""
        if self.alone:
            return None
        at = [pair.target for pair in self.pairs]
        shares = [np.clip(_at(self._shares(table), at), 1e-300, 1 - 1e-16) for table in (self.before, self.after)]
        return self._shift(*(np.log(share) - np.log1p(-share) for share in shares))

    def _group(self, name: str, members: Sequence[int], chosen: Sequence[Any], right: Any, favoured: Any) -> GroupShift:
        rate = None if favoured is None else self._shift(*(one == favoured for one in chosen), members=members)
        return GroupShift(name, rate, self._shift(*(one == right for one in chosen), members=members))

    def _shares(self, table: Table) -> Table:
        """Probability of each answer among those that the pair offers; of a single one its own."""
        shares: Table = np.where(self._offered, np.exp(table), 0.0)
        if not self.alone:
            largest = table.max(1, keepdims=True, where=self._offered, initial=-np.inf)
            shares = np.where(self._offered, np.exp(table - largest), 0.0)
            shares /= shares.sum(1, keepdims=True)
        return shares

    def _chosen(self, table: Table) -> Any:
        return np.where(self._offered, table, -np.inf).argmax(1)

    def _shift(self, before: Any, after: Any, *, members: Sequence[int] | None = None) -> Shift:
        some = list(range(len(self.pairs))) if members is None else list(members)
        one, two = (np.asarray(values, float)[some] for values in (before, after))
        weight = self.units.weight[some]
        units = Units.made(len(some), weight, [str(self.units.unit[i]) for i in some])
        ends = mean_intervals(np.stack([one, two, two - one]), units)
        first, second = (float(np.average(values, weights=weight)) for values in (one, two))
        return Shift(len(some), first, second, *ends)


def _at(table: Table, index: Sequence[int]) -> Values:
    """One column of each row."""
    return np.asarray(table[np.arange(len(table)), list(index)])


EDIT = "edit.json"
"""File of the last edit's effect and cost in the run's folder."""


@dataclass(frozen=True)
class Edited:
    """Effect and cost of the last edit."""

    k: int
    donor: str
    unseen: bool
    outcomes: tuple[Outcome, ...]
    largest_difference: float

    def to_json(self) -> bytes:
        """The content of ``edit.json``."""
        return json_bytes({"schema": 1, **asdict(self), "outcomes": [one.row() for one in self.outcomes]}, indent=None)

    @classmethod
    def from_json(cls, text: str, where: str = EDIT) -> Edited:
        """Inverse of ``to_json``. Raises InputError for a file that is something else."""
        try:
            return made_of(cls, parse_json(text, where))
        except ValueError as error:
            raise InputError(f"{where} is not what cotrace edit writes ({error}); delete it, or edit again") from None
