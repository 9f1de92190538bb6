"""Schedule: the sizes that Pursuit stops at on its ways up and down, and what it may cost to look around there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from cotrace.search._cost_weights import ladder
from cotrace.search.hyperparameters import EVERY, geometric, given

FILLED = 256
"""Largest N at which every size is evaluated on the ways, or between them."""
SMALL = 20
"""Largest N at which every exchange is evaluated in the end, by no gradient."""
FEW = 60
"""Largest N that counts as a small space."""
ALLOWED = 0.39
"""Share of exact greedy's cost that ``normal`` spends at most in spaces above ``SMALL`` and up to ``FEW``: both ways
are paced by it, and what they leave is for polishing."""
BEAM = (0, 1, 2, 3)
"""Ranks of the sets of every size that exchanges start from, twice over."""
SECOND = 2
"""How far down the ranks of the gradient half way the last addition or removal is tried near both ends."""


class Effort(NamedTuple):
    """How hard to look."""

    stops: int
    """Sizes at which a gradient is taken, on each way."""
    alternates: int
    """How far down the ranks the last addition or removal is also tried."""
    exchanges: int
    """Smallest step, in components, after which sets with members exchanged are tried too."""
    slack: float
    """How far below the best known, in effects of everything, a prediction may lie and still be evaluated."""
    polish: int
    """Rounds from the best set of every stop."""
    opening: int
    """Components from nothing, and from everything, up to which the gradient half way proposes too."""
    filled: str = "way"
    """When sizes between stops are evaluated: on the ``way``, in the ``end`` between the best sets, or at ``both``."""


EFFORTS: Mapping[str, tuple[Effort, Effort]] = {
    "fast": (Effort(16, 1, 2, 0.0, 0, 1), Effort(14, 0, 1000, 0.0, 0, 1)),
    "normal": (Effort(60, 2, 2, 0.02, 1, 3), Effort(40, 1, 2, 0.0, 0, 3, "both")),
    "thorough": (Effort(60, 4, 1, 0.05, 3, 3), Effort(256, 3, 1, 0.02, 2, 3)),
}
"""Word -> effort in spaces of at most ``FEW`` components, and in larger ones."""
EXPECTED: Mapping[str, float] = {
    "up": 1.0,
    "down": 0.35,
    "polish": 0.01,
    "fill": 0.5,
    "exchange": 0.25,
    "rest": 1.0,
    "greedy": 0.8,
}
"""Share of what a visit can cost which it does cost, as measured: sets that were met before are free, and those that
no gradient promises are not evaluated. The way down costs all of it at sizes that the way up did not come to."""


class Visit(NamedTuple):
    """One step of the plan: from the best set of one size to sets of another."""

    phase: str
    start: int
    size: int
    rank: int = 0
    """Which of the best sets of that size to start from."""


@dataclass(frozen=True)
class Schedule:
    """Stops of a pursuit of n components."""

    n: int
    most: int
    """Largest k."""
    word: str
    """Its effort."""
    sizes: tuple[int, ...] | None
    """Sizes to stop at, and then the only ones."""
    gradient_share: float

    @cached_property
    def effort(self) -> Effort:
        """How hard to look in a space of this size."""
        return EFFORTS[self.word][self.n > FEW]

    @cached_property
    def grid(self) -> list[int]:
        """Stops on the way up."""
        if self.sizes is not None:
            return given("pursuit", self.sizes, self.most)
        return geometric(self.most, self.effort.stops)

    @cached_property
    def visits(self) -> list[Visit]:
        """Up from nothing, down from everything, then from the best of every size."""
        inner = [size for size in self.grid if size < self.n]
        falling = dict.fromkeys((self.n, *self._falling))
        return [
            *(Visit("up", a, b) for a, b in pairwise([0, *inner])),
            *(Visit("down", a, b) for a, b in pairwise(falling)),
            *(Visit("polish", size, size) for _ in range(self._rounds) for size in inner),
            *(Visit("fill", a, b) for a, b in pairwise([0, *self._filled]) if b > a + 1),
            *(Visit("exchange", size, size, rank) for rank in self.beam for size in inner),
            *(Visit("rest", a, b) for a, b in pairwise([0, *self.grid]) if b > a + 1 and self._completed),
            *(Visit("greedy", size, size + 1) for size in range(min(self.most, self.n - 1)) if self._guaranteed),
        ]

    @property
    def beam(self) -> tuple[int, ...]:
        """Ranks from which every exchange is evaluated in the end."""
        return BEAM * 2 if self.n <= SMALL and self.word != "fast" else ()

    @property
    def _rounds(self) -> int:
        """Rounds of polishing; where few sizes of a large space are asked for, one costs little beside both ways."""
        return max(self.effort.polish, int(self.word == "normal" and self.most <= FEW and self.sizes is None))

    @property
    def _guaranteed(self) -> bool:
        """Whether greedy's own sets are evaluated too, so that no size falls below it."""
        return self.word == "thorough" and self.n <= FEW and self.sizes is None

    @property
    def paced(self) -> bool:
        """Whether both ways keep to a share of greedy's cost."""
        return self.word == "normal" and SMALL < self.n <= FEW

    @property
    def ways(self) -> int:
        """Visits of both ways."""
        return sum(visit.phase in ("up", "down") for visit in self.visits)

    @cached_property
    def most_cost(self) -> float:
        """Forward-equivalents of all visits, at most."""
        least = (2 * self.gradient_share + 1) * self.ways + sum(map(self._opening, self.visits))
        return min(sum(map(self._most, self.visits)), max(self.allowed, least))

    @property
    def allowed(self) -> float:
        """Forward-equivalents that both ways and polishing keep to, as far as a set after each gradient lets them."""
        return ALLOWED * greedy_cost(self.n, self.most) if self.paced else math.inf

    @property
    def expected_cost(self) -> float:
        """Forward-equivalents of all visits, as a rule."""
        return min(self.most_cost, sum(map(self._expected, self.visits)))

    def _expected(self, visit: Visit) -> float:
        """Forward-equivalents of a visit, as a rule."""
        if visit.phase == "down" and visit.size > self.most:
            return self._at_pace(visit)
        return EXPECTED[visit.phase] * self._at_pace(visit)

    def _at_pace(self, visit: Visit) -> float:
        """Return the most that a visit may cost: on the ways an equal share of what is allowed, at least one set."""
        pace = max(self.allowed / self.ways, 2 * self.gradient_share + 1) if self.ways else math.inf
        return min(self._most(visit), pace + self._opening(visit))

    def between(self, visit: Visit) -> range:
        """Sizes from the start, exclusive, to the end, exclusive; and both neighbours where they are the same."""
        if self.sizes is not None:
            return range(0)
        if visit.start == visit.size:
            return range(max(visit.size - 1, 1), min(visit.size + 2, self.most + 1))
        if self.n > FILLED or self.effort.filled == "end":
            return range(0)
        low, high = sorted((visit.start, visit.size))
        return range(low + 1, min(high, self.most + 1))

    def exchanges(self, visit: Visit) -> list[int]:
        """How many members are exchanged where a visit ends."""
        step = abs(visit.size - visit.start)
        return ladder(step) if step == 0 or step >= self.effort.exchanges else []

    def opens(self, visit: Visit) -> bool:
        """Whether a visit is one component's step, close to nothing or to everything."""
        near_end = min(visit.start, self.n - visit.start) < self.effort.opening
        return near_end and abs(visit.size - visit.start) == 1

    @property
    def _filled(self) -> list[int]:
        """Stops of both ways, between which every size is to be filled; none where they are filled on the way."""
        if self.effort.filled == "way" or self.sizes is not None or self.n > FILLED:
            return []
        return sorted({*self.grid, *(size for size in self._falling if size <= self.most), self.most})

    @property
    def _completed(self) -> bool:
        """Whether sizes that the ways left out get one set each in the end."""
        return self.sizes is None and self.n > FILLED and self.most <= EVERY

    @property
    def _falling(self) -> list[int]:
        """Stops on the way down: close to one another near everything, as those on the way up are near nothing."""
        mirrored = [self.n - size for size in geometric(self.n - 1, self.effort.stops)]
        if self.sizes is None and self.n <= FILLED:
            return [size for size in mirrored if size >= 1]
        return [*(size for size in mirrored if size > self.most), *reversed(self.grid)]

    def _most(self, visit: Visit) -> float:
        """Forward-equivalents of a visit, at most."""
        if visit.phase == "exchange":
            return visit.size * (self.n - visit.size) + self.n
        if visit.phase == "greedy":
            return self.n - visit.start
        if visit.phase == "fill":
            return 2.0 * (visit.size - visit.start - 1)
        if visit.phase == "rest":
            return visit.size - visit.start - 1
        reach = self.effort.alternates
        both = visit.start == visit.size
        alternates = reach * (reach + 3) // 2 if both else reach
        sets = len(self.between(visit)) + (not both) + alternates + len(self.exchanges(visit))
        return 2 * self.gradient_share + sets + self._opening(visit)

    def _opening(self, visit: Visit) -> int:
        """Sets that the gradient half way proposes for a visit."""
        return (1 + SECOND) * (visit.phase in ("up", "down") and self.opens(visit))


def greedy_cost(n: int, most: int) -> float:
    """Forward-equivalents of exact greedy up to a size: each step evaluates every component that is left."""
    return most * (2 * n - most + 1) / 2
