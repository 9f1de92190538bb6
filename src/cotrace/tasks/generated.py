"""Generated tasks: subject-verb agreement, greater-than and variable binding.

Linzen et al. 2016 (arXiv 1611.01368); traced by Finlayson et al. 2021 (arXiv 2106.06087). Generated.

Hanna et al. 2023, *How does GPT-2 compute greater-than?* (arXiv 2305.00586). Generated.

Davies et al. 2023, *Discovering Variable Binding Circuitry with Desiderata* (arXiv 2307.03637); a setting of Yan et al.
2026 (arXiv 2606.03085). Generated arithmetic prompts, balanced by the answer's first digit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from cotrace.errors import unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks._files import TaskInfo, generated
from cotrace.validation import checked

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

    Args:
        size: Number of pairs.
        seed: Seed of the pairs.
    """
    return generated("agreement", size, seed, _phrase, _agreement_pair)


def _phrase(random: Random, index: int) -> Phrase:
    subject, distractor = random.sample(NOUNS, 2)
    plural, distractor_plural = index % 2 == 1, index // 2 % 2 == 1
    return Phrase(random.choice(OPENINGS), subject, plural, random.choice(PREPOSITIONS), distractor, distractor_plural)


def _agreement_pair(phrase: Phrase, name: str) -> PromptPair:
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


AGREEMENT_INFO = TaskInfo(
    name="agreement",
    about="is or are after a subject with another noun in between?",
    source="subject-verb agreement, Linzen et al. 2016, arXiv 1611.01368; generated",
    licence="MIT (generated prompts)",
    size="200 (size=)",
    metric="log_odds",
    load=agreement,
)


EVENTS = ("war", "siege", "voyage", "reign", "strike", "trial", "drought", "conflict", "festival", "journey", "debate")
CENTURIES = (12, 13, 14, 15, 16, 17)
"""Outside these GPT-2's tokenizer often splits a year elsewhere, so that no answer would follow the prompt."""


@dataclass(frozen=True)
class Period:
    """A start year, one that is earlier, and an end on either side of the start; all in two digits."""

    event: str
    century: int
    start: int
    earlier: int
    """The counterfactual's start year: below both ends, so that either is a fair answer."""
    above: int
    below: int

    def prompt(self, start: int) -> str:
        return f"The {self.event} lasted from the year {self.century}{start:02d} to the year {self.century}"


@checked("ct.tasks.greater_than")
def greater_than(*, size: int = 200, seed: int = 0) -> Task:
    """Prompts with two answers, one end year above the start (right) and one below it (wrong).

    In the counterfactual the start year lies below both. The odds are p(below) / p(above). Hanna et al. sum over all
    two-digit years; one of each kind keeps the answers' number the same for every tokenizer. Raises InputError.

    Args:
        size: Number of pairs.
        seed: Seed of the pairs.
    """
    return generated("greater_than", size, seed, _period, _greater_than_pair)


def _period(random: Random, _index: int) -> Period:
    earlier, below, start, above = sorted(random.sample(range(2, 99), 4))
    return Period(random.choice(EVENTS), random.choice(CENTURIES), start, earlier, above, below)


def _greater_than_pair(period: Period, name: str) -> PromptPair:
    base = period.prompt(period.start)
    year = base.index(f"{period.century}{period.start:02d}")
    spans = {"start": (year, year + 4), "event": (4, 4 + len(period.event))}
    return PromptPair(
        id=name,
        base=base,
        counterfactual=period.prompt(period.earlier),
        answers=(f"{period.above:02d}", f"{period.below:02d}"),
        target=0,
        group=f"{period.century}00s",
        split_group=f"{period.century}{period.start:02d}",
        spans=spans,
        counterfactual_spans=spans,
        meta={"gap_years": period.above - period.start},
    )


GREATER_THAN_INFO = TaskInfo(
    name="greater_than",
    about="does an end year lie above the start year?",
    source="greater-than, Hanna et al. 2023, arXiv 2305.00586; generated",
    licence="MIT (generated prompts)",
    size="200 (size=)",
    metric="log_odds",
    load=greater_than,
)


DESIDERATA = ("value", "operation")
SIGNS = ("+", "-")
VALUES = range(10, 100)
"""Two digits for values and answers, so that any tokenizer gives base and counterfactual the same length."""


@dataclass(frozen=True)
class Sum:
    """x and y with their values, and what is asked of them."""

    x: int
    y: int
    sign: str

    @property
    def prompt(self) -> str:
        return f"x = {self.x}. y = {self.y}. x {self.sign} y ="

    @property
    def result(self) -> int:
        return self.x + self.y if self.sign == "+" else self.x - self.y

    @property
    def digit(self) -> int:
        """First digit of the result."""
        return self.result // 10

    @property
    def other_sign(self) -> Sum:
        return replace(self, sign="-" if self.sign == "+" else "+")


@checked("ct.tasks.binding")
def binding(*, desideratum: str = "value", size: int = 200, seed: int = 0) -> Task:
    """Prompts such as ``x = 41. y = 23. x + y =`` with a counterfactual that differs in one respect.

    ``value`` (value dependence): other values, same operation; the parts that carry the values should turn the answer
    into the counterfactual's: maximise. ``operation`` (operation invariance): same values, other operation; the answer
    should stay: hold the effect near 0. The odds are p(counterfactual's answer) / p(base's answer); the two differ in
    their first digit, over which the pairs are balanced for each operation. Raises InputError.

    Args:
        desideratum: ``value`` or ``operation``.
        size: Number of pairs.
        seed: Seed of the pairs.
    """
    if desideratum not in DESIDERATA:
        raise unknown("desideratum", desideratum, DESIDERATA)
    draw = _values if desideratum == "value" else _operations
    task = generated("binding", size, seed, draw, _binding_pair, more=f", {desideratum}")
    return replace(task, name=f"binding-{desideratum}")


@cache
def _table(desideratum: str, sign: str) -> dict[int, tuple[Sum, ...]]:
    """First digit -> the sums with that result that a desideratum can use."""
    sums = [Sum(x, y, sign) for x in VALUES for y in VALUES]
    usable = [item for item in sums if item.result in VALUES and (desideratum == "value" or _turns(item))]
    return {digit: tuple(s for s in usable if s.digit == digit) for digit in sorted({s.digit for s in usable})}


def _turns(item: Sum) -> bool:
    """Whether the other operation gives a two-digit result too, with another first digit."""
    return item.other_sign.result in VALUES and item.other_sign.digit != item.digit


def _values(random: Random, index: int) -> tuple[Sum, Sum]:
    """The index-th base, signs and first digits in turn, and a sum of two other values."""
    table = _table("value", SIGNS[index % 2])
    turn, digits = index // 2, list(table)
    shift = 1 + turn // len(digits) % (len(digits) - 1)
    base, other = digits[turn % len(digits)], digits[(turn + shift) % len(digits)]
    first = random.choice(table[base])
    return first, random.choice([second for second in table[other] if second.x != first.x and second.y != first.y])


def _operations(random: Random, index: int) -> tuple[Sum, Sum]:
    """The index-th base, signs and first digits in turn, and the same values under the other sign."""
    table = _table("operation", SIGNS[index % 2])
    digits = list(table)
    base = random.choice(table[digits[index // 2 % len(digits)]])
    return base, base.other_sign


def _binding_pair(sums: tuple[Sum, Sum], name: str) -> PromptPair:
    base, other = sums
    return PromptPair(
        id=name,
        base=base.prompt,
        counterfactual=other.prompt,
        answers=(f" {base.result}", f" {other.result}"),
        target=0,
        target_counterfactual=1,
        group="plus" if base.sign == "+" else "minus",
        split_group=f"{base.x}/{base.y}",
        spans=dict(SPANS),
        counterfactual_spans=dict(SPANS),
        meta={"x": base.x, "y": base.y, "first_digit": base.digit},
    )


SPANS = {"x": (4, 6), "y": (12, 14), "operation": (18, 19)}
"""The two values and the sign, at the same place in every prompt."""

BINDING_INFO = TaskInfo(
    name="binding",
    about="which parts carry a variable's value, whatever is computed with it? (desideratum=value or operation)",
    source="variable binding, Davies et al. 2023, arXiv 2307.03637; generated",
    licence="MIT (generated prompts)",
    size="200 (size=)",
    metric="log_odds",
    load=binding,
)
