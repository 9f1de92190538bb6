"""Factual gender: "The mother said that" -> she, not he; what a bias must not be confused with.

Veloso and Schuetze 2026, *GKnow: Measuring the Entanglement of Gender Bias and Factual Gender* (arXiv 2605.12299), tell
a stereotype from a word that means a gender, and find both entangled. Generated; the words are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from cotrace.arguments import checked
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.generate import distinct
from cotrace.tasks.info import TaskInfo

WORDS = (
    ("mother", "father"),
    ("sister", "brother"),
    ("daughter", "son"),
    ("wife", "husband"),
    ("woman", "man"),
    ("girl", "boy"),
    ("aunt", "uncle"),
    ("queen", "king"),
    ("princess", "prince"),
    ("grandmother", "grandfather"),
    ("bride", "groom"),
    ("niece", "nephew"),
    ("nun", "monk"),
    ("lady", "gentleman"),
    ("waitress", "waiter"),
    ("stepmother", "stepfather"),
)
"""A word that means a woman, and its counterpart that means a man."""
OPENINGS = ("The", "Yesterday the", "We heard that the", "In the story the")
ENDINGS = ("said that", "was late because", "went home when", "smiled because", "stayed until", "left before")
ANSWERS = (" she", " he")


@dataclass(frozen=True)
class Sentence:
    """One prompt; ``man`` is 0 for the word that means a woman, 1 for its counterpart."""

    opening: str
    words: tuple[str, str]
    man: int
    ending: str

    def text(self, man: int) -> str:
        return f"{self.opening} {self.words[man]} {self.ending}"

    def span(self, man: int) -> tuple[int, int]:
        return len(self.opening) + 1, len(self.opening) + 1 + len(self.words[man])


@checked("ct.tasks.factual_gender")
def factual_gender(*, size: int = 120, seed: int = 0) -> Task:
    """Prompts about a person whose word means a gender, in equal parts; the counterfactual has the other word.

    The odds are p(wrong pronoun) / p(right pronoun). As a constraint or a side task it says what a set that moves a
    gender *bias* does to plain knowledge: ``ct.Constraint(ct.side_problem(problem, ct.tasks.factual_gender()), 0.5)``.
    ``group`` is the word's gender. Raises InputError.
    """
    sentences = distinct("factual_gender", size, seed, _sentence)
    pairs = tuple(_pair(sentence, f"{i:04d}") for i, sentence in enumerate(sentences))
    return Task(name="factual_gender", pairs=pairs, source=f"generated, seed {seed}")


def _sentence(random: Random, index: int) -> Sentence:
    return Sentence(random.choice(OPENINGS), random.choice(WORDS), index % 2, random.choice(ENDINGS))


def _pair(sentence: Sentence, name: str) -> PromptPair:
    man = sentence.man
    return PromptPair(
        id=name,
        base=sentence.text(man),
        counterfactual=sentence.text(1 - man),
        answers=ANSWERS,
        target=man,
        target_counterfactual=1 - man,
        group=("female", "male")[man],
        split_group="/".join(sentence.words),
        spans={"subject": sentence.span(man)},
        counterfactual_spans={"subject": sentence.span(1 - man)},
        subject=sentence.words[man],
    )


INFO = TaskInfo(
    name="factual_gender",
    about="she or he for a word that means a gender, which a bias is not",
    source="after GKnow, Veloso and Schuetze 2026, arXiv 2605.12299; generated",
    licence="MIT (generated prompts)",
    size="120 (size=)",
    metric="log_odds",
    load=factual_gender,
)
