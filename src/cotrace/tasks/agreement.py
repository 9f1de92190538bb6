"""Subject-verb agreement: "The keys near the cabinet" -> are, not is.

Linzen et al. 2016 (arXiv 1611.01368); traced by Finlayson et al. 2021 (arXiv 2106.06087). Generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cotrace.arguments import checked
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.generate import distinct
from cotrace.tasks.info import TaskInfo

_NOUNS = """
book key car picture door chair table bottle box phone letter map ball bag tree stone house boat bird dog cat horse toy
cup coat shirt clock lamp wall window
"""
NOUNS = tuple(_NOUNS.split())
PREPOSITIONS = ("near", "behind", "by", "beside", "under", "above")
OPENINGS = ("The", "I know that the", "We saw that the", "Today the")
ANSWERS = (" is", " are")


@dataclass(frozen=True)
class Phrase:
    """A subject and a noun that stands between it and the verb."""

    opening: str
    subject: str
    plural: bool
    preposition: str
    distractor: str
    distractor_plural: bool

    def text(self, *, plural: bool) -> str:
        distractor = form(self.distractor, plural=self.distractor_plural)
        return f"{self.opening} {form(self.subject, plural=plural)} {self.preposition} the {distractor}"

    def span(self, *, plural: bool) -> tuple[int, int]:
        start = len(self.opening) + 1
        return start, start + len(form(self.subject, plural=plural))


def form(noun: str, *, plural: bool) -> str:
    """The noun in the number asked for."""
    return noun + ("es" if noun.endswith("x") else "s") * plural


@checked("ct.tasks.agreement")
def agreement(*, size: int = 200, seed: int = 0) -> Task:
    """Prompts that end before the verb, in equal parts singular and plural, with a distractor of either number.

    The counterfactual has the subject in the other number, so the answers change places. The odds are p(wrong form) /
    p(right form). ``group`` is the subject's number; ``meta`` says whether the distractor agrees. Raises InputError.
    """
    phrases = distinct("agreement", size, seed, _phrase)
    pairs = tuple(_pair(phrase, f"{i:04d}") for i, phrase in enumerate(phrases))
    return Task(name="agreement", pairs=pairs, source=f"generated, seed {seed}")


def _phrase(random: Random, index: int) -> Phrase:
    subject, distractor = random.sample(NOUNS, 2)
    plural, distractor_plural = index % 2 == 1, index // 2 % 2 == 1
    return Phrase(random.choice(OPENINGS), subject, plural, random.choice(PREPOSITIONS), distractor, distractor_plural)


def _pair(phrase: Phrase, name: str) -> PromptPair:
    right = int(phrase.plural)
    return PromptPair(
        id=name,
        base=phrase.text(plural=phrase.plural),
        counterfactual=phrase.text(plural=not phrase.plural),
        answers=ANSWERS,
        target=right,
        target_counterfactual=1 - right,
        group="plural" if phrase.plural else "singular",
        split_group=f"{phrase.subject}/{phrase.distractor}",
        spans={"subject": phrase.span(plural=phrase.plural)},
        counterfactual_spans={"subject": phrase.span(plural=not phrase.plural)},
        subject=form(phrase.subject, plural=phrase.plural),
        meta={"distractor": "same" if phrase.plural == phrase.distractor_plural else "other"},
    )


INFO = TaskInfo(
    name="agreement",
    about="is or are after a subject with another noun in between?",
    source="subject-verb agreement, Linzen et al. 2016, arXiv 1611.01368; generated",
    licence="MIT (generated prompts)",
    size="200 (size=)",
    metric="log_odds",
    load=agreement,
)
