"""Pursuit: two-way, gradient-guided, exactly evaluated. The default search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from cotrace.errors import unknown
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier
from cotrace.search.checks import largest, positive, settings, within
from cotrace.search.driver import solve
from cotrace.search.progress import Shown
from cotrace.search.sets import Sample, SetFunction, with_each
from cotrace.search.sizes import geometric, given
from cotrace.search.state import SearchState
from cotrace.search.surrogate import Neighbourhood, Proposal, Surrogate, ladder
from cotrace.search.thrift import BUDGETS, Weights, settled, spend, weight_vector

FILLED = 256
"""Largest N at which every size is evaluated, also between the stops."""
SMALL = 20
"""Largest N at which every exchange is evaluated in the end, by no gradient."""
ALLOWED = 0.39
"""Share of exact greedy's cost that ``normal`` spends at most in spaces above ``SMALL`` and up to ``FEW``: both ways
are paced by it, and what they leave is for polishing."""
BEAM = (0, 1, 2, 3)
"""Ranks of the sets of every size that exchanges start from, twice over."""

SECOND = 2
"""How far down the ranks of the gradient half way the last addition or removal is tried near both ends."""

FAR = 1e9
"""Slope of a component that must not be taken, or must not leave."""


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
FEW = 60


TYPICAL = {"fast": (0.95, 0.9), "normal": (0.31, 0.84), "thorough": (0.17, 0.4)}
"""Share of the most that a search can cost which it does cost, as measured; in small and in larger spaces."""
TYPICAL_SMALL = 0.25


class Visit(NamedTuple):
    """One step of the plan: from the best set of one size to sets of another."""

    phase: str
    start: int
    size: int
    rank: int = 0
    """Which of the best sets of that size to start from."""


@dataclass(frozen=True, kw_only=True)
class Pursuit:
    """Goes from nothing up and from everything down, by the gradient of the reported value at the best set known.

    At each stop it evaluates exactly, in one batch: the nested sets on the way to the next stop; there also sets with
    members exchanged and with the next in rank.
    Costs about 6 N forward-equivalents up to N = 60 (from N = 32 at most 0.4 of greedy's), 4 N up to N = 256, at most
    700 in larger spaces; up to N = 20, where it ends with every exchange, up to 800, ten times greedy's (``fast`` does
    not). ``most_cost`` bounds it. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    sizes: tuple[int, ...] | None = None
    """Sizes to stop at, and then the only ones; None for a geometric grid, and all sizes up to N = 256."""
    effort: str = "normal"
    """``fast``, ``normal`` or ``thorough``."""
    cost_weights: Weights | str | None = None
    """Site -> cost of one component, or ``balanced``: then a last pass looks for what is best for its cost."""
    gradient_share: float = 1.0
    """Share of the pairs that a gradient is taken on, drawn anew for each; evaluations are always on all."""
    seed: int = 0
    """Of that draw, which is the only one."""

    name: ClassVar[str] = "pursuit"

    def __post_init__(self) -> None:
        settings(self)
        if self.effort not in EFFORTS:
            raise unknown("effort", self.effort, EFFORTS)
        positive(self.name, "gradient_share", self.gradient_share)
        within(self.name, "gradient_share", self.gradient_share, 0, 1)

    def __call__(self, problem: Problem, progress: Shown = None) -> Frontier:
        """The best selection found for every k."""
        return solve(self, problem, progress=progress)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components, as measured: sets that no gradient promises are not evaluated."""
        if self._beam(n):
            return TYPICAL_SMALL * self.most_cost(n)
        typical = TYPICAL[self.effort][n > FEW] * self.most_cost(n)
        most = largest(self.name, self.max_size, n)
        return min(typical, ALLOWED * greedy_cost(n, most)) if self.effort == "normal" and n <= FEW else typical

    def most_cost(self, n: int) -> float:
        """Forward-equivalents for n components, at most."""
        spending = (2 * self.gradient_share + 3) * BUDGETS if self.cost_weights else 0
        return 3.0 + spending + sum(self._most(visit, n) for visit in self._plan(n))

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each stop of each pass."""
        function = SetFunction(self.name, problem, state, sample=Sample(self.gradient_share, self.seed))
        weights = settled(self.name, problem.space, self.cost_weights)
        plan = self._plan(function.n)
        plan += [Visit("cost", step, step + 1) for step in range(BUDGETS if weights else 0)]
        begun = state if state and state.step else None
        function.score(~function.empty())
        surrogate = Surrogate.from_tensors(begun.tensors) if begun else Surrogate.start(function)
        for step in range(begun.step if begun else 0, len(plan)):
            if plan[step].phase == "cost":
                costs = weight_vector(problem.space, weights)
                spend(function, surrogate, costs, plan[step].start, self.max_size or function.n)
            else:
                self._visit(function, surrogate, plan[step], self._room(function, step, plan))
            numbers = {"cost_weights": weights}
            yield function.state(plan[step].phase, step + 1, len(plan), numbers, surrogate.to_tensors())

    def _effort(self, n: int) -> Effort:
        return EFFORTS[self.effort][n > FEW]

    def _plan(self, n: int) -> list[Visit]:
        """Up from nothing, down from everything, then from the best of every size."""
        most, effort = largest(self.name, self.max_size, n), self._effort(n)
        grid = given(self.name, self.sizes, most) if self.sizes else geometric(most, effort.stops)
        falling = dict.fromkeys((n, *self._falling(n, most, grid)))
        inner = [size for size in grid if size < n]
        return [
            *(Visit("up", a, b) for a, b in pairwise([0, *inner])),
            *(Visit("down", a, b) for a, b in pairwise(falling)),
            *(Visit("polish", size, size) for _ in range(effort.polish) for size in inner),
            *(Visit("fill", a, b) for a, b in pairwise([0, *self._filled(n, most, grid)]) if b > a + 1),
            *(Visit("exchange", size, size, rank) for rank in self._beam(n) for size in inner),
        ]

    def _beam(self, n: int) -> tuple[int, ...]:
        """Ranks from which every exchange is evaluated in the end."""
        return BEAM * 2 if n <= SMALL and self.effort != "fast" else ()

    def _filled(self, n: int, most: int, grid: list[int]) -> list[int]:
        """Stops of both ways, between which every size is to be filled; none where they are filled on the way."""
        if self._effort(n).filled == "way" or self.sizes is not None or n > FILLED:
            return []
        return sorted({*grid, *(size for size in self._falling(n, most, grid) if size <= most), most})

    def _falling(self, n: int, most: int, grid: list[int]) -> list[int]:
        """Stops on the way down: close to one another near everything, as those on the way up are near nothing."""
        stops = self._effort(n).stops
        mirrored = [n - size for size in geometric(n - 1, stops)]
        if self.sizes is None and n <= FILLED:
            return [size for size in mirrored if size >= 1]
        return [*(size for size in mirrored if size > most), *reversed(grid)]

    def _room(self, function: SetFunction, step: int, plan: list[Visit]) -> int | None:
        """How many sets a stop may evaluate to keep pace with what is allowed; None where there is no bound."""
        n = function.n
        if self.effort != "normal" or not SMALL < n <= FEW:
            return None
        most = largest(self.name, self.max_size, n)
        share = min(1.0, (step + 1) / sum(visit.phase in ("up", "down") for visit in plan))
        return math.floor(ALLOWED * greedy_cost(n, most) * share - function.spent - 2 * self.gradient_share)

    def _visit(self, function: SetFunction, surrogate: Surrogate, visit: Visit, room: int | None) -> None:
        """Take the gradient at the best set of the start, and evaluate what it proposes."""
        if visit.phase == "exchange":
            function.scores(every_neighbour(function.archive.ranked_set(visit.start, visit.rank)))
            return
        chosen = function.archive.best_set(visit.start) if visit.start else function.empty()
        if visit.phase == "fill":
            function.scores(torch.stack(self._fill(function, surrogate, chosen, visit.size)))
            return
        if visit.phase == "polish" and (function.has_gradient(chosen) or (room is not None and room < 1)):
            return
        score = function.score(chosen) if visit.start else 0.0
        near = Neighbourhood(chosen, surrogate.slopes(chosen, function.gradient(chosen)), score)
        opening = self._opening(surrogate, near, visit)
        left = None if room is None else room - len(opening)
        sets = [near.set_of(proposal) for proposal in (*opening, *self._proposals(function, near, visit, left))]
        if sets:
            function.scores(torch.stack(sets))
            surrogate.learn(function, chosen, score, torch.stack(sets))

    def _opening(self, surrogate: Surrogate, near: Neighbourhood, visit: Visit) -> list[Proposal]:
        """What the gradient half way ranks first, near both ends: there a saturated component's own slope is flat."""
        if not self._opens(visit, near.n):
            return []
        halfway = Neighbourhood(near.chosen, surrogate.halfway, near.score)
        return [*halfway.nested(visit.size), *halfway.alternates(visit.size, SECOND)]

    def _opens(self, visit: Visit, n: int) -> bool:
        """Whether a visit is one component's step, close to nothing or to everything."""
        near_end = min(visit.start, n - visit.start) < self._effort(n).opening
        return near_end and abs(visit.size - visit.start) == 1

    def _fill(
        self, function: SetFunction, surrogate: Surrogate, low: Bool[Tensor, "n"], size: int
    ) -> list[Bool[Tensor, "n"]]:
        """Sets of the sizes between two stops: the lower one's plus the best of what the upper one has besides."""
        high = function.archive.best_set(size)
        known = [surrogate.slopes(s, function.gradient(s)) for s in (low, high) if function.has_gradient(s)]
        slopes = torch.stack(known or [surrogate.halfway]).mean(0)
        near = Neighbourhood(low, torch.where(high, slopes, -FAR), 0.0)
        far = Neighbourhood(high, torch.where(low, FAR, slopes), 0.0)
        sizes = range(int(low.sum()) + 1, size)
        return [side.set_of(p) for k in sizes for side in (near, far) for p in side.nested(k)]

    def _proposals(self, function: SetFunction, near: Neighbourhood, visit: Visit, room: int | None) -> list[Proposal]:
        """The sets worth evaluating: of sizes not seen yet, or predicted to come near the best known of their size.

        Where there is room for so many only, those that promise most over what is known; one in any case.
        """
        everything = function.archive.best(function.n)
        slack = self._effort(function.n).slack * abs(everything.score if everything else 0.0)
        worth: list[tuple[float, Proposal]] = []
        for size, proposals in self._sets_near(near, visit).items():
            best = function.archive.best(size)
            bar = -math.inf if best is None else best.score - slack
            worth += [(proposal.predicted - bar, proposal) for proposal in proposals if proposal.predicted >= bar]
        if room is not None and len(worth) > max(1, room):
            worth = sorted(worth, key=lambda pair: -pair[0])[: max(1, room)]
        return [proposal for _, proposal in worth]

    def _sets_near(self, near: Neighbourhood, visit: Visit) -> dict[int, list[Proposal]]:
        """Size -> proposals: nested sets on the way, and exchanges and alternates where the way ends."""
        effort, step = self._effort(near.n), abs(visit.size - visit.start)
        sizes = self._between(near.n, visit)
        found = {size: near.nested(size) for size in sizes}
        end = found.setdefault(visit.size, near.nested(visit.size))
        end += near.alternates(visit.size, effort.alternates)
        if step == 0 or step >= effort.exchanges:
            end += [proposal for extra in ladder(step) for proposal in near.nested(visit.size, extra)]
        return found

    def _between(self, n: int, visit: Visit) -> range:
        """Sizes from the start, exclusive, to the end, exclusive; and both neighbours where they are the same."""
        if visit.start == visit.size:
            return range(max(visit.size - 1, 1), min(visit.size + 2, (self.max_size or n) + 1))
        if self.sizes is not None or n > FILLED or self._effort(n).filled == "end":
            return range(0)
        low, high = sorted((visit.start, visit.size))
        return range(low + 1, min(high, (self.max_size or n) + 1))

    def _most(self, visit: Visit, n: int) -> float:
        """Forward-equivalents of a visit, at most."""
        if visit.phase == "exchange":
            return visit.size * (n - visit.size) + n
        effort = self._effort(n)
        if visit.phase == "fill":
            return 2.0 * (visit.size - visit.start - 1)
        reach = effort.alternates
        both = visit.start == visit.size
        alternates = reach * (reach + 3) // 2 if both else reach
        step = abs(visit.size - visit.start)
        exchanges = len(ladder(step)) if step == 0 or step >= effort.exchanges else 0
        opening = (1 + SECOND) * self._opens(visit, n)
        between = len(self._between(n, visit)) + (not both)
        return 2 * self.gradient_share + between + alternates + exchanges + opening


def greedy_cost(n: int, most: int) -> float:
    """Forward-equivalents of exact greedy up to a size: each step evaluates every component that is left."""
    return most * (2 * n - most + 1) / 2


def every_neighbour(chosen: Bool[Tensor, "n"]) -> Bool[Tensor, "set n"]:
    """All sets that differ by one addition, one removal (not to nothing) or one exchange."""
    inside, outside = chosen.nonzero()[:, 0].tolist(), (~chosen).nonzero()[:, 0].tolist()
    grown = with_each(chosen, outside)
    shrunk = with_each(chosen, inside)
    exchanged = [with_each(row, inside) for row in grown]
    return torch.cat([grown, *([shrunk] if len(inside) > 1 else []), *exchanged])
