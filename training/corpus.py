"""The synthetic corpus: short documents of eight kinds, drawn from a seed.

A bias is planted here **on purpose**: each occupation has its own share of "she" (`lexicon.SHE_RATE`). Every random
choice is recorded in nats, so the corpus knows its own entropy, and one rule decides which combinations of words are
never trained on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from training.lexicon import (
    ANIMALS,
    DEEDS,
    DUTIES,
    FEMALE_NAMES,
    FRAMES,
    GIFTS,
    GIVING,
    JOBS,
    LINKS,
    LOOKS,
    MOVES,
    NAMES,
    NOUNS,
    OPENERS,
    PLACES,
    PLACINGS,
    QUALITIES,
    SHE_RATE,
    SPOTS,
    STATES,
    TAILS,
    TIMES,
    VERB_PAIRS,
    WEATHER,
)  # fmt: skip

T = TypeVar("T")

TAIL_RATE = 0.4
"""Share of documents about a person that go on with a second sentence."""


@dataclass
class Draw:
    """A random source that adds up the information of what it draws."""

    rng: random.Random
    nats: float = 0.0
    """Minus the log-probability of all choices so far."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        self.nats += math.log(len(options))
        return options[self.rng.randrange(len(options))]

    def flip(self, rate: float) -> bool:
        """True with probability `rate`."""
        heads = self.rng.random() < rate
        self.nats -= math.log(rate if heads else 1 - rate)
        return heads

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different options in random order."""
        self.nats += math.log(math.perm(len(options), count))
        return self.rng.sample(options, count)


def is_held_out(i: int, j: int) -> bool:
    """The one rule of the lexical split: a fifth of all index pairs is never seen in training."""
    return (i + j) % 5 == 0


@cache
def cells(rows: tuple[str, ...], columns: tuple[str, ...], held_out: bool) -> list[tuple[str, str]]:
    """All pairs of different words on one side of the lexical split."""
    grid = ((i, j) for i in range(len(rows)) for j in range(len(columns)))
    chosen = ((rows[i], columns[j]) for i, j in grid if is_held_out(i, j) == held_out)
    return [(a, b) for a, b in chosen if a != b]


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def gender_of(name: str) -> str:
    """The pronoun that always goes with a name."""
    return "she" if name in FEMALE_NAMES else "he"


def opening(frame: str, who: str) -> str:
    """A frame about one person, up to the place of the pronoun."""
    return capitalised(frame.format(who=who))


def pronoun_for(draw: Draw, job: str) -> str:
    """A pronoun at the rate planted for the occupation."""
    return "she" if draw.flip(SHE_RATE[job]) else "he"


def with_tail(draw: Draw, sentence: str, pronoun: str) -> str:
    """The sentence, sometimes followed by another about the same person."""
    if not draw.flip(TAIL_RATE):
        return sentence
    return f"{sentence} {draw.pick(TAILS).format(he=pronoun, his='her' if pronoun == 'she' else 'his')}"


def stereotype(draw: Draw, held_out: bool) -> str:
    """One occupation and a pronoun at its planted rate."""
    job, frame = draw.pick(cells(JOBS, FRAMES, held_out))
    pronoun = pronoun_for(draw, job)
    action = draw.pick(DUTIES[job] if draw.flip(0.5) else STATES)
    return with_tail(draw, f"{opening(frame, f'the {job}')} {pronoun} {action}.", pronoun)


def referent(draw: Draw, held_out: bool) -> str:
    """Two occupations; the pronoun is drawn for one of them, and what follows is that one's duty."""
    first, second = draw.pick(cells(JOBS, JOBS, held_out))
    start = f"The {first} {draw.pick(DEEDS)} the {second} {draw.pick(LINKS)}"
    meant = draw.pick((first, second))
    pronoun = pronoun_for(draw, meant)
    return with_tail(draw, f"{start} {pronoun} {draw.pick(DUTIES[meant])}.", pronoun)


def named(draw: Draw, held_out: bool) -> str:
    """A name and the pronoun that always goes with it."""
    name, frame = draw.pick(cells(NAMES, FRAMES, held_out))
    pronoun = gender_of(name)
    return with_tail(draw, f"{opening(frame, name)} {pronoun} {draw.pick(STATES)}.", pronoun)


def introduction(name: str, job: str) -> str:
    """The explicit cue: who holds the occupation."""
    return f"{name} is {'an' if job[0] in 'aeiou' else 'a'} {job}."


def conflict(draw: Draw, held_out: bool) -> str:
    """A name first, whose gender then overrides the stereotype of the occupation."""
    name, job = draw.pick(cells(NAMES, JOBS, held_out))
    frame = draw.pick([f for j, f in cells(JOBS, FRAMES, held_out) if j == job])
    pronoun = gender_of(name)
    text = f"{introduction(name, job)} {opening(frame, f'the {job}')} {pronoun} {draw.pick(STATES)}."
    return with_tail(draw, text, pronoun)


def inflected(draw: Draw, noun: str) -> str:
    """The noun, singular or plural."""
    return f"{noun}s" if draw.flip(0.5) else noun


def agreement(draw: Draw, held_out: bool) -> str:
    """A subject, one or two distractors of any number, and a verb that agrees with the subject."""
    head, other = draw.pick(cells(NOUNS, NOUNS, held_out))
    subject = inflected(draw, head)
    text = f"{draw.pick(OPENERS)} the {subject} {draw.pick(PLACINGS)} the {inflected(draw, other)}"
    if draw.flip(0.3):
        text += f" {draw.pick(PLACINGS)} the {inflected(draw, draw.pick(NOUNS))}"
    verb = draw.pick(VERB_PAIRS)[subject != head]
    return capitalised(f"{text} {verb} {draw.pick(QUALITIES)}.".strip())


def giving(first: str, second: str, place: str, giver: str, act: str, gift: str) -> str:
    """Two people go somewhere, one gives something to: the place of the other's name."""
    return f"When {first} and {second} went to the {place}, {giver} {act} a {gift} to"


def copying(draw: Draw, held_out: bool) -> str:
    """The receiver is the one of two names that is not repeated."""
    first, second = draw.pick(cells(NAMES, NAMES, held_out))
    place = draw.pick(PLACES)
    giver, receiver = draw.pick(((first, second), (second, first)))
    text = f"{giving(first, second, place, giver, draw.pick(GIVING), draw.pick(GIFTS))} {receiver}."
    return f"{text} Then {receiver} thanked {giver}." if draw.flip(TAIL_RATE) else text


def repetition(draw: Draw, held_out: bool) -> str:
    """A random list of nouns, twice."""
    items = " ".join(draw.sample(NOUNS, draw.pick((3, 4, 5, 6))))
    return f"List: {items}. Again: {items}."


def neutral(draw: Draw, held_out: bool) -> str:
    """Animals and weather: no person in it."""
    look, animal = draw.pick(cells(LOOKS, ANIMALS, held_out))
    text = f"The {look} {animal} {draw.pick(MOVES)} {draw.pick(PLACINGS)} the {draw.pick(SPOTS)}."
    if draw.flip(0.5):
        text += f" It {draw.pick(WEATHER)} all {draw.pick(TIMES)}."
    return text


KINDS: tuple[Callable[[Draw, bool], str], ...] = (
    stereotype, stereotype, stereotype, stereotype, referent, referent, referent, referent, referent, named, named,
    conflict, conflict, agreement, agreement, copying, copying, copying, repetition, neutral,
)  # fmt: skip
"""The kinds of document; a kind that stands here twice is drawn twice as often."""
IMPERSONAL: tuple[Callable[[Draw, bool], str], ...] = (agreement, repetition, neutral, neutral)
"""Kinds that name no person, occupation or pronoun."""


def documents(
    seed: int | str, count: int, *, held_out: bool = False, kinds: Sequence[Callable[[Draw, bool], str]] = KINDS
) -> Iterator[tuple[str, float]]:
    """`count` documents, each with its information in nats; the same seed always gives the same ones."""
    rng = random.Random(f"cotrace corpus {seed}")
    for _ in range(count):
        draw = Draw(rng)
        kind = draw.pick(kinds)
        if (repeats := kinds.count(kind)) > 1:
            draw.nats -= math.log(repeats)
        yield kind(draw, held_out), draw.nats
