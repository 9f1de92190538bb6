"""Levels: how much is asked, what each part of it costs, and what the whole costs, before anything is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from cotrace.errors import unknown
from cotrace.results import Table
from cotrace.search.sizes import geometric


@dataclass(frozen=True, kw_only=True)
class Level:
    """Limits of one level. Every number of masks is an upper limit; small spaces need fewer."""

    sizes: int
    """Sizes that are tested against controls."""
    chains: int
    singles: int = 0
    """Largest N at which single effects are evaluated; above it, and at 0, they are ranked by one gradient."""
    members: int = 0
    """Members whose leaving is evaluated."""
    pairs: int = 0
    """Members whose pairs are evaluated."""
    subsets: int = 0
    """Sets evaluated for Shapley values."""
    outside: int = 0
    """Components outside the selection whose joining is evaluated."""
    alternatives: int = 0
    curve: int = 0
    """Sizes of the faithfulness curve."""
    sides: int = 0
    """Sizes at which side effects are evaluated, beside the selection's."""
    every_size: bool = False
    """Evaluate every size of the frontier, also where its effects were not kept."""
    exhaustive: int = 0
    """Most sets that are evaluated to certify the optimum."""


ALONE = 40
"""Most components outside whose effect alone is evaluated too: those whose joining does most."""

LEVELS: Mapping[str, Level] = {
    "quick": Level(sizes=7, chains=19),
    "standard": Level(
        sizes=7, chains=39, singles=160, members=24, pairs=6, alternatives=8, curve=10, sides=2, exhaustive=30
    ),
    "full": Level(
        sizes=7,
        chains=99,
        singles=200,
        members=32,
        pairs=8,
        subsets=220,
        outside=120,
        alternatives=10,
        curve=12,
        sides=3,
        every_size=True,
        exhaustive=500,
    ),
}


def level_named(name: str) -> Level:
    """The level of that name. Raises UnknownName."""
    if name not in LEVELS:
        raise unknown("level", name, LEVELS)
    return LEVELS[name]


@dataclass(frozen=True)
class Step:
    """One part of an evaluation and what it will cost at most."""

    name: str
    about: str
    forward_equivalents: int


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation will do. Prints as a table."""

    level: str
    steps: tuple[Step, ...]

    def __repr__(self) -> str:
        return f"EvaluationPlan({self.level}, at most {self.forward_equivalents:,} forward-equivalents)"

    @property
    def forward_equivalents(self) -> int:
        """What it costs at most, side problems and searches apart."""
        return sum(step.forward_equivalents for step in self.steps)

    def table(self) -> Table:
        """The parts and their cost."""
        rows = [(step.name, step.about, f"{step.forward_equivalents:,}") for step in self.steps]
        title = f"Evaluation {self.level}: at most {self.forward_equivalents:,} forward-equivalents"
        return Table(title, ("part", "what it does", "cost, at most"), rows, frozenset({0, 1}))

    def __str__(self) -> str:
        return str(self.table())


def tested_sizes(sizes: Sequence[int], level: Level, k: int) -> list[int]:
    """The sizes that are tested: spread evenly in their logarithm over those found, the chosen one among them."""
    grid = geometric(sizes[-1], level.sizes) if sizes[-1] > level.sizes else list(range(1, sizes[-1] + 1))
    nearest = [min(sizes, key=lambda size: (abs(size - wanted), size)) for wanted in grid]
    found = sorted(set(nearest))
    if k not in found:
        found[min(range(len(found)), key=lambda i: abs(found[i] - k))] = k
    return sorted(set(found))


def plan(
    name: str,
    level: Level,
    *,
    n: int,
    k: int,
    sizes: Sequence[int],
    stored: bool,
    singles: bool,
    checks: int = 0,
    levels: int = 0,
) -> EvaluationPlan:
    """What a level does in a space of n, for a frontier of these sizes and a selection of k.

    ``stored`` says whether the frontier kept its held-out effects, ``singles`` whether every single effect is known,
    ``checks`` how many sets are measured again to see whether stored effects are of this problem, ``levels`` how many
    for the level that people read.
    """
    tested = tested_sizes(sizes, level, k)
    own = 0 if stored else len(sizes if level.every_size else tested)
    ranked = 0 if singles else n if n <= level.singles else 2
    steps = [
        Step("belonging", "whether stored effects are of this problem", checks),
        Step("held-out", f"effect and interval at {len(sizes) if stored else own} sizes", own + 1),
        Step("level", "the metric as people read it, under the selection", levels),
        Step("controls", f"{level.chains} nested random chains at {len(tested)} sizes", level.chains * len(tested)),
        Step("single effects", f"the best single components at {len(tested)} sizes", ranked + len(tested)),
        *_detail(level, n, k),
    ]
    return EvaluationPlan(name, tuple(step for step in steps if step.forward_equivalents))


def _detail(level: Level, n: int, k: int) -> list[Step]:
    members, pairs, outside = min(level.members, k), min(level.pairs, k), min(level.outside, n - k)
    together = comb(pairs, 2)
    return [
        Step("minimality", f"{members} members leave in turn", members + (members > 0) * (1 + 2 * (k > members))),
        Step("completeness", "the components outside the selection", int(level.members > 0)),
        Step("alternatives", "the best sets known without a member", level.alternatives),
        Step("interactions", f"{pairs} members in pairs, within the selection and alone", 2 * together + pairs),
        Step("shapley", "subsets of the selection", level.subsets),
        Step("outside", f"{outside} other components join the selection", (outside > 0) * (outside + ALONE + 2)),
        Step("faithfulness", f"sets kept at {level.curve} sizes", (level.curve > 0) * (level.curve + 1)),
        Step("certificate", "every set of the size", certain if (certain := comb(n, k)) <= level.exhaustive else 0),
    ]
