"""Variable binding: which parts carry a variable's value, whatever is then computed with it?

Davies et al. 2023, *Discovering Variable Binding Circuitry with Desiderata* (arXiv 2307.03637); a setting of Yan et al.
2026 (arXiv 2606.03085). Generated arithmetic prompts, balanced by the answer's first digit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from cotrace.arguments import checked
from cotrace.errors import unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.tasks.generate import distinct
from cotrace.tasks.info import TaskInfo

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
    """
    if desideratum not in DESIDERATA:
        raise unknown("desideratum", desideratum, DESIDERATA)
    draw = _values if desideratum == "value" else _operations
    couples = distinct("binding", size, seed, draw)
    pairs = tuple(_pair(base, other, f"{i:04d}") for i, (base, other) in enumerate(couples))
    return Task(name=f"binding-{desideratum}", pairs=pairs, source=f"generated, seed {seed}, {desideratum}")


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


def _pair(base: Sum, other: Sum, name: str) -> PromptPair:
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

INFO = TaskInfo(
    name="binding",
    about="which parts carry a variable's value, whatever is computed with it? (desideratum=value or operation)",
    source="variable binding, Davies et al. 2023, arXiv 2307.03637; generated",
    licence="MIT (generated prompts)",
    size="200 (size=)",
    metric="log_odds",
    load=binding,
)
