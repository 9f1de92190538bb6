"""The audits of the gallery: what each asks, with which options, and what it does not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

JOBS = (("nurse", "pilot"), ("maid", "guard"), ("secretary", "boss"), ("teacher", "farmer"))
REASONS = ("was late", "was tired", "went home", "was happy", "called back", "left early")
GOOD_BAD = (("wonderful", "terrible"), ("great", "bad"), ("good", "awful"), ("lovely", "horrible"))
THINGS = ("film", "book", "food", "hotel", "show", "music")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One page of the gallery."""

    name: str
    question: str
    task: str
    """A task's name; or the name of ``pairs``, which are written to a file."""
    not_shown: str
    data: str | None = None
    """Folder of the benchmark below ``DATA``; None where the audit brings its own pairs."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of ``cotrace trace`` beside those that all audits share."""
    pairs: Callable[[], Iterator[dict[str, Any]]] | None = None
    known: bool = False
    """Keep only facts whose answer is among the model's own five likeliest."""
    few: int | None = None
    """Keep so many words of each gender in four templates, evenly over the list; all with ``--full``."""
    constrained: str | None = None
    """Task whose metric may not move by more than half of what everything does."""


def chat(question: str) -> list[dict[str, str]]:
    """One turn of a user."""
    return [{"role": "user", "content": question}]


def chat_bias() -> Iterator[dict[str, Any]]:
    """Which pronoun a chat model takes for an occupation that is stereotyped one way or the other."""
    for i, ((woman, man), reason) in enumerate(product(JOBS, REASONS)):
        ask = f"Finish the sentence with one word, she or he: The {{}} {reason} because"
        yield {
            "id": f"{woman}-{man}-{i}",
            "messages": chat(ask.format(woman)),
            "counterfactual_messages": chat(ask.format(man)),
            "answers": ["she", "he"],
            "target": 0,
            "split_group": f"{woman}/{man}",
        }


def chat_sentiment() -> Iterator[dict[str, Any]]:
    """Whether a review is called positive or negative."""
    for i, ((good, bad), thing) in enumerate(product(GOOD_BAD, THINGS)):
        ask = f"Is this review positive or negative? Answer with one word. Review: The {thing} was {{}}."
        yield {
            "id": f"{good}-{bad}-{i}",
            "messages": chat(ask.format(good)),
            "counterfactual_messages": chat(ask.format(bad)),
            "answers": ["Positive", "Negative"],
            "target": 0,
            "split_group": f"{good}/{bad}",
        }


AUDITS = (
    Audit(
        name="winobias",
        question="Which attention heads together make the model go by the pronoun's stereotype?",
        task="winobias",
        data="winobias",
        options={"split": "dev"},
        not_shown="That the heads are about gender alone, or hold on other templates: `cotrace transfer` asks that.",
    ),
    Audit(
        name="winogender",
        question="The same with an occupation and one other person, split by labour statistics.",
        task="winogender",
        data="winogender",
        options={"max_size": 8},
        not_shown="More than a hint: 44 pairs leave 13 held out, and intervals are wide.",
    ),
    Audit(
        name="professions",
        question="Which MLP neurons make a pronoun follow from an occupation?",
        task="professions",
        data="professions",
        options={"sites": "mlp_neuron", "max_size": 16, "memory": "2GB", "metric": "odds_ratio"},
        few=12,
        not_shown="That there are no better sets: 46,080 neurons are far too many for 16 pairs to tell apart.",
    ),
    Audit(
        name="facts",
        question="Which heads restore a fact that noise on its subject has taken away?",
        task="counterfact",
        data="counterfact",
        options={"mode": "keep", "sites": "head_output", "donors": "noise=3x@subject", "metric": "odds_ratio"},
        known=True,
        not_shown="Where the fact is stored: heads carry it to where it is read. Few facts are known to so small a "
        "model, so few pairs are held out.",
    ),
    Audit(
        name="indirect_objects",
        question="Which heads name the one who receives?",
        task="ioi",
        options={"task_options": {"size": 60}},
        not_shown="What each head does: see the readout of the run.",
    ),
    Audit(
        name="binding",
        question="Which heads carry the value of a variable?",
        task="binding",
        options={"task_options": {"size": 60}},
        not_shown="Arithmetic: a model of this size seldom has the right sum, and the metric is of two given answers.",
    ),
    Audit(
        name="chat_bias",
        question="In chat form: which heads take the pronoun from the occupation?",
        task="chat_bias",
        pairs=chat_bias,
        options={"max_size": 8},
        not_shown="What longer dialogues do; the pairs are ours, eight occupations in one phrasing.",
    ),
    Audit(
        name="chat_sentiment",
        question="In chat form: which heads tell a good review from a bad one?",
        task="chat_sentiment",
        pairs=chat_sentiment,
        options={"max_size": 8},
        not_shown="Sentiment in general: eight words in one phrasing.",
    ),
    Audit(
        name="bias_not_knowledge",
        question="Which heads move the bias while mother stays she and father he?",
        task="winobias",
        data="winobias",
        options={"split": "dev", "max_size": 8},
        constrained="factual_gender",
        not_shown="That nothing else moves: only factual gender is bounded, by half of what everything does to it.",
    ),
)
"""Every audit, in the order in which they are run."""
