"""Pursuit: two-way, gradient-guided, exactly evaluated. The default search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from cotrace.errors import unknown
from cotrace.problem.protocol import Problem
from cotrace.search._cost_weights import (
    BUDGETS,
    Neighbourhood,
    Proposal,
    Surrogate,
    Weights,
    named_costs,
    settled,
    spend,
    weight_vector,
)
from cotrace.search._schedule import EFFORTS, SECOND, Schedule, Visit
from cotrace.search.archive import SearchState
from cotrace.search.hyperparameters import gaps, largest, positive, within
from cotrace.search.sets import Sample, SetFunction, with_each
from cotrace.search.solve import Search

FAR = 1e9
"""Slope of a component that must not be taken, or must not leave."""


@dataclass(frozen=True, kw_only=True)
class Pursuit(Search):
    """Goes from nothing up and from everything down, by the gradient of the reported value at the best set known.

    At each stop it evaluates exactly, in one batch: the nested sets on the way to the next stop; there also sets with
    members exchanged and with the next in rank.
    Costs about 6 N forward-equivalents up to N = 60 (from N = 32 at most 0.4 of greedy's), 4 N up to N = 256, at most
    950 in larger spaces; up to N = 20, where it ends with every exchange, up to 800, ten times greedy's (``fast`` does
    not). ``most_cost`` bounds it. Deterministic.
    """

    max_size: int | None = None
    """Largest k; None for N."""
    sizes: tuple[int, ...] | None = None
    """The only sizes to look at; None for all of them, or for a geometric grid where the largest is above 256."""
    effort: str = "normal"
    """``fast``, ``normal`` or ``thorough``; up to N = 60 ``thorough`` evaluates greedy's own sets as well, and is below
    greedy at no size."""
    cost_weights: Weights | str | None = None
    """Site -> cost of one component (or text, ``feature=0.1,head_output=1``), or ``balanced``: then a last pass looks
    for what is best for its cost."""
    gradient_share: float = 1.0
    """Share of the pairs that a gradient is taken on, drawn anew for each; evaluations are always on all."""
    seed: int = 0
    """Seed of that draw; nothing else is drawn."""

    name: ClassVar[str] = "pursuit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.effort not in EFFORTS:
            raise unknown("effort", self.effort, EFFORTS)
        positive(self.name, "gradient_share", self.gradient_share)
        within(self.name, "gradient_share", self.gradient_share, 0, 1)
        named_costs(self.name, self.cost_weights)

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents for n components, as a rule: what is spent is less than half of itself away."""
        return self._ends + self._schedule(n).expected_cost

    def most_cost(self, n: int) -> float:
        """Forward-equivalents for n components, at most."""
        return self._ends + self._schedule(n).most_cost

    @property
    def _ends(self) -> float:
        """Everything, the gradient half way, and the pass over costs where there is one."""
        return 3.0 + (2 * self.gradient_share + 3) * BUDGETS * bool(self.cost_weights)

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """One state after each stop of each pass."""
        function = SetFunction(self.name, problem, state, sample=Sample(self.gradient_share, self.seed))
        weights = settled(self.name, problem.space, self.cost_weights)
        schedule = self._schedule(function.n)
        plan = schedule.visits + [Visit("cost", step, step + 1) for step in range(BUDGETS if weights else 0)]
        begun = state if state and state.step else None
        numbers = {"cost_weights": weights, "advice": gaps(schedule.grid, self.sizes, schedule.most)}
        function.score(~function.empty())
        if not plan:  # everything is the only set to look at
            yield function.state("everything", 1, 1, numbers)
            return
        surrogate = Surrogate.from_tensors(begun.tensors) if begun else Surrogate.start(function)
        for step in range(begun.step if begun else 0, len(plan)):
            if plan[step].phase == "cost":
                costs = weight_vector(problem.space, weights)
                spend(function, surrogate, costs, plan[step].start, self.max_size or function.n)
            else:
                self._visit(function, surrogate, schedule, plan[step], self._room(function, step, schedule))
            yield function.state(plan[step].phase, step + 1, len(plan), numbers, surrogate.to_tensors())

    def _schedule(self, n: int) -> Schedule:
        return Schedule(n, largest(self.name, self.max_size, n), self.effort, self.sizes, self.gradient_share)

    def _room(self, function: SetFunction, step: int, schedule: Schedule) -> int | None:
        """How many sets a stop may evaluate to keep pace with what is allowed; None where there is no bound."""
        if not schedule.paced:
            return None
        share = min(1.0, (step + 1) / schedule.ways)
        return math.floor(schedule.allowed * share - function.spent - 2 * self.gradient_share)

    def _visit(
        self, function: SetFunction, surrogate: Surrogate, schedule: Schedule, visit: Visit, room: int | None
    ) -> None:
        """Take the gradient at the best set of the start, and evaluate its proposals."""
        if visit.phase == "exchange":
            function.scores(neighbours(function.archive.ranked_set(visit.start, visit.rank), schedule.sizes))
            return
        if visit.phase == "greedy":
            greedy_set(function, visit.size)
            return
        chosen = function.archive.best_set(visit.start) if visit.start else function.empty()
        if visit.phase in ("fill", "rest"):
            function.scores(self._between(function, surrogate, chosen, visit))
            return
        if visit.phase == "polish" and (function.has_gradient(chosen) or (room is not None and room < 1)):
            return
        score = function.score(chosen) if visit.start else 0.0
        near = Neighbourhood(chosen, surrogate.slopes(chosen, function.gradient(chosen)), score)
        opening = opened(surrogate, near, visit.size) if schedule.opens(visit) else []
        left = None if room is None else room - len(opening)
        sets = [near.set_of(p) for p in (*opening, *promising(function, near, schedule, visit, left))]
        if sets:
            function.scores(torch.stack(sets))
            surrogate.learn(function, chosen, score, torch.stack(sets))

    def _between(
        self, function: SetFunction, surrogate: Surrogate, low: Bool[Tensor, "n"], visit: Visit
    ) -> Bool[Tensor, "set n"]:
        """Sets of the sizes between two stops: the lower one's plus the best of what the upper one has besides.

        The rest is one set of each size that has none yet; else the upper stop's without its least is another one.
        """
        high = function.archive.best_set(visit.size)
        known = [surrogate.slopes(s, function.gradient(s)) for s in (low, high) if function.has_gradient(s)]
        slopes = torch.stack(known or [surrogate.halfway]).mean(0)
        near = Neighbourhood(low, torch.where(high, slopes, -FAR), 0.0)
        far = Neighbourhood(high, torch.where(low, FAR, slopes), 0.0)
        sizes: Sequence[int] = range(visit.start + 1, visit.size)
        sides = [near, far]
        if visit.phase == "rest":
            sizes, sides = [k for k in sizes if function.archive.best(k) is None], [near]
        sets = [side.set_of(p) for k in sizes for side in sides for p in side.nested(k)]
        return torch.stack(sets) if sets else torch.zeros(0, function.n, dtype=torch.bool)


def opened(surrogate: Surrogate, near: Neighbourhood, size: int) -> list[Proposal]:
    """Return the sets that the gradient half way ranks first: near both ends a saturated slope is flat."""
    halfway = Neighbourhood(near.chosen, surrogate.halfway, near.score)
    return [*halfway.nested(size), *halfway.alternates(size, SECOND)]


def promising(
    function: SetFunction, near: Neighbourhood, schedule: Schedule, visit: Visit, room: int | None
) -> list[Proposal]:
    """The sets worth evaluating: of sizes not seen yet, or predicted to come near the best known of their size.

    Where there is room for so many only, those that promise most over what is known; one in any case.
    """
    everything = function.archive.best(function.n)
    slack = schedule.effort.slack * abs(everything.score if everything else 0.0)
    worth: list[tuple[float, Proposal]] = []
    for size, proposals in sets_near(near, schedule, visit).items():
        best = function.archive.best(size)
        bar = -math.inf if best is None else best.score - slack
        worth += [(proposal.predicted - bar, proposal) for proposal in proposals if proposal.predicted >= bar]
    if room is not None and len(worth) > max(1, room):
        worth = sorted(worth, key=lambda pair: -pair[0])[: max(1, room)]
    return [proposal for _, proposal in worth]


def sets_near(near: Neighbourhood, schedule: Schedule, visit: Visit) -> dict[int, list[Proposal]]:
    """Size -> proposals: nested sets on the way, and exchanges and alternates where the way ends."""
    found = {size: near.nested(size) for size in schedule.between(visit)}
    end = found.setdefault(visit.size, near.nested(visit.size))
    end += near.alternates(visit.size, schedule.effort.alternates)
    end += [proposal for extra in schedule.exchanges(visit) for proposal in near.nested(visit.size, extra)]
    return found


def greedy_set(function: SetFunction, size: int) -> Bool[Tensor, "n"]:
    """Return exact greedy's set of a size; sets evaluated before are free, so each further size is one step."""
    chosen = function.empty()
    for _ in range(size):
        rest = (~chosen).nonzero()[:, 0].tolist()
        chosen[rest[int(function.flipped(chosen, rest).argmax())]] = True
    return chosen


def neighbours(chosen: Bool[Tensor, "n"], sizes: tuple[int, ...] | None = None) -> Bool[Tensor, "set n"]:
    """All sets (of these sizes) that differ by one addition, one removal (not to nothing) or one exchange."""
    inside, outside = chosen.nonzero()[:, 0].tolist(), (~chosen).nonzero()[:, 0].tolist()
    grown = with_each(chosen, outside)
    shrunk = with_each(chosen, inside)
    exchanged = [with_each(row, inside) for row in grown]
    sets = torch.cat([grown, *([shrunk] if len(inside) > 1 else []), *exchanged])
    return sets if sizes is None else sets[torch.isin(sets.sum(1), torch.tensor(sizes))]
