"""``ct.transfer``: does a set that was found on one problem do the same on another task, split, template or checkpoint?

A set may do as much to another task as that task's own set does (circuits by attribution over six tasks and seven
models: arXiv 2605.08348), so the effect stands beside the target's own set, and beside random sets of the same
composition, without which a large effect elsewhere says nothing of the set. Every figure has an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from cotrace.components import Component, ComponentSpace, sign_of
from cotrace.errors import InputError
from cotrace.evaluation import controls as random_sets
from cotrace.evaluation.stability import jaccard
from cotrace.problem.evaluator import Evaluator
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier, Selection, Table
from cotrace.results.table import number
from cotrace.search import Pursuit, Search
from cotrace.search.solve import solve
from cotrace.statistics import Interval, interval_text, p_values
from cotrace.validation import check_kind, check_seed, checked, guarded

CONTROLS = 39
"""Random sets by default: the smallest p-value is 1 / 40."""
ENOUGH = 0.9
"""Share of the best effect that the selection has where no k is named."""
HEADS = ("set", "effect", "interval", "of everything")


@guarded("ct.Transfer")
@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Effect of a set on another problem. Effects are signed changes of the target's metric."""

    source: str
    """Task that the set was found on; empty where that is not known."""
    source_model: str
    """Model that the set was found on."""
    target: str
    """Task that it is judged on."""
    target_model: str
    """Model that it is judged on."""
    metric: str
    """The target's metric."""
    mode: str
    """``swap`` or ``keep``."""
    direction: str
    """``maximise`` or ``minimise``, the target's."""
    judged_on: str
    """``held-out`` or ``training``: the target's pairs that the figures are of."""
    pairs: int
    """Number of pairs that the figures are of."""
    k: int
    """Size of the set."""
    components: tuple[str, ...]
    """Names of its members."""
    effect: float
    """Effect of the set on the target."""
    interval: Interval | None
    """Its bootstrap interval; None with too few pairs."""
    full_effect: float
    """Effect of everything in the space."""
    full_interval: Interval | None
    """Interval of the effect of everything in the space."""
    own_components: tuple[str, ...]
    """The set of size k that a search of the target finds on its training pairs."""
    own_effect: float
    """Effect of the target's own set."""
    own_interval: Interval | None
    """Its bootstrap interval."""
    difference: Interval | None
    """Paired interval of how much more it does than the target's own set; above 0 is better, whatever the direction."""
    overlap: float
    """Jaccard index of both sets."""
    control_mean: float
    """Mean effect of the random sets."""
    control_best: float
    """Largest effect of the random sets, in the target's direction."""
    controls: int
    """Number of random sets."""
    composition: str
    """Property that random sets share with the set."""
    p_value: float
    """Share of sets, this one among the random ones, with at least its effect."""
    forward_equivalents: float
    """Spent on the target: the search, and the figures (one mask on all pairs of a part is 1)."""

    @property
    def ratio(self) -> float | None:
        """Effect of the set over that of the target's own; None where the own has none."""
        return self.effect / self.own_effect if abs(self.own_effect) > 1e-9 else None

    @property
    def verdict(self) -> str:
        """The figures in words."""
        share = "" if self.ratio is None else f", {self.ratio:.0%} of the target's own set of that size"
        less = {True: "no more than", False: "more than"}[self.p_value > 0.05]
        words = (
            f"the set of {self.k} from {self.source or 'elsewhere'} moves {self.metric} on {self.target} by "
            f"{self.effect:+.3g} ({interval_text(self.interval) or 'no interval'}){share}: {less} random sets of the "
            f"same {self.composition} (mean {self.control_mean:+.3g}, p = {self.p_value:.3g})"
        )
        return f"{words}. {self._carries}"

    @property
    def _carries(self) -> str:
        low, high = (
            sorted(sign_of(self.direction) * end for end in self.interval) if self.interval else (-np.inf, np.inf)
        )
        if self.interval is None:
            return "There are too few pairs to say whether it carries over."
        if low <= 0 or self.p_value > 0.05:
            against = " It works against the target's direction." if high < 0 else ""
            return f"It does not show that the set carries over.{against}"
        worse = self.difference is not None and self.difference[1] < 0
        return f"The set carries over{', and the target has a better one' if worse else ''}."

    def table(self) -> Table:
        """The figures for people."""
        rows = [
            (f"from {self.source or 'elsewhere'}", self.effect, self.interval),
            ("the target's own", self.own_effect, self.own_interval),
            (f"random, mean of {self.controls}", self.control_mean, None),
            ("random, best", self.control_best, None),
            ("everything", self.full_effect, self.full_interval),
        ]
        cells = [(name, number(e), interval_text(i) or "", self._share(e)) for name, e, i in rows]
        title = (
            f"k = {self.k} on {self.target} ({self.target_model}), {self.metric}, {self.mode}, {self.judged_on} pairs"
        )
        return Table(title, HEADS, cells, frozenset({0}))

    def _share(self, effect: float) -> str:
        return f"{effect / self.full_effect:.0%}" if abs(self.full_effect) > 1e-9 else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"ratio": self.ratio, "verdict": self.verdict}

    def __str__(self) -> str:
        return f"{self.table()}\n{self.verdict}"


@checked("ct.transfer")
def transfer(
    result: Frontier | Selection,
    problem: Problem,
    *,
    k: int | None = None,
    search: Search | None = None,
    controls: int = CONTROLS,
    seed: int = 0,
) -> Transfer:
    """Judge a set on another problem: its effect there, against that problem's own set and random ones, with intervals.

    ``problem`` is the target: another task, other pairs, or another checkpoint whose components have the same names.
    ``k`` picks a selection of a frontier (default: the smallest with 90 % of its best effect). The target's own set is
    what ``search`` (default: ``Pursuit(effort="fast")`` up to k) finds on its training pairs; all figures are of its
    held-out pairs, where it has some. Raises InputError, also for components that the target's space lacks.

    Args:
        result: The set, or a frontier to take it from.
        controls: Number of random sets of the same composition.
        seed: Seed of the random sets.
    """
    check_kind("ct.transfer", "result", result, Frontier | Selection)
    check_seed("ct.transfer", seed)
    if controls < 1:
        raise InputError(f"ct.transfer: controls is {controls}; give at least 1 random set")
    chosen = selection_of(result, k)
    if isinstance(result, Frontier) and result.mode != problem.mode:
        raise InputError(
            f"ct.transfer: the set is of mode {result.mode!r}, the target of {problem.mode!r}: ask the same"
        )
    check_members(problem, chosen.members, result.space if isinstance(result, Frontier) else problem.space)
    before = problem.cost.forward_equivalents
    own = _own(problem, chosen.k, search)
    judge = Evaluator(problem.heldout or problem)
    found = _figures(judge, chosen.members, own.members, controls, seed)
    asked = problem.question
    return Transfer(
        source=result.task if isinstance(result, Frontier) else "",
        source_model=getattr(result, "model", "") or "",
        target=problem.task,
        target_model=str(asked.get("model", "")),
        metric=problem.metric,
        mode=problem.mode,
        direction=problem.direction,
        judged_on="training" if problem.heldout is None else "held-out",
        pairs=judge.problem.size,
        forward_equivalents=problem.cost.forward_equivalents - before + judge.spent * (problem.heldout is not None),
        **found,
    )


def selection_of(result: Frontier | Selection, k: int | None) -> Selection:
    """The selection that is meant. Raises InputError."""
    if isinstance(result, Selection):
        if k is not None and k != result.k:
            raise InputError(f"ct.transfer: k is {k} and the selection has {result.k}: leave k out")
        return result
    return result.at(k) if k is not None else result.enough(ENOUGH)


def check_members(problem: Problem, members: Sequence[Component], space: ComponentSpace) -> None:
    """Raise InputError where the target's space is not the source's, or does not hold every member."""
    outside = [str(one) for one in (*members, *space, *problem.space) if one not in problem.space or one not in space]
    if outside:
        raise InputError(
            f"ct.transfer: {outside[0]} is not in both spaces: the source's is {space.outline}, the target's "
            f"{problem.space.outline}. A set is carried to the same components only: the same sites and roles, a "
            "checkpoint of the same architecture"
        )


def _own(problem: Problem, k: int, search: Search | None) -> Selection:
    """The target's own set of that size."""
    frontier = solve(search or Pursuit(effort="fast", max_size=k), problem)
    if k not in frontier.sizes:
        raise InputError(f"ct.transfer: {frontier.search} found no set of {k} on the target: give another search")
    return frontier.at(k)


def _figures(
    judge: Evaluator, members: Sequence[Component], own: Sequence[Component], controls: int, seed: int
) -> dict[str, Any]:
    """All that is measured of both sets, of everything, and of random sets."""
    theirs, mine = judge.rows([members, own])
    everything = np.ones(judge.n, bool)
    composition, drawn = _random(judge, theirs, controls, seed)
    judge.values(np.stack([theirs, mine, everything]))
    random = judge.values(drawn)
    effect, own_effect, full = judge.values(np.stack([theirs, mine, everything])).tolist()
    return {
        "k": int(theirs.sum()),
        "components": tuple(map(str, members)),
        "effect": effect,
        "interval": judge.interval(theirs),
        "full_effect": full,
        "full_interval": judge.interval(everything),
        "own_components": tuple(map(str, own)),
        "own_effect": own_effect,
        "own_interval": judge.interval(mine),
        "difference": judge.gain_interval(theirs, mine),
        "overlap": jaccard(members, own),
        "control_mean": float(random.mean()),
        "control_best": float(judge.sign * (judge.sign * random).max()),
        "controls": controls,
        "composition": composition,
        "p_value": float(p_values(judge.sign * np.array([effect]), judge.sign * random[:, None])[0]),
    }


def _random(
    judge: Evaluator, chosen: Bool[np.ndarray, "n"], controls: int, seed: int
) -> tuple[str, Bool[np.ndarray, "set n"]]:
    composition, blocks = random_sets.composition(judge.problem.space, chosen[None], 0)
    return composition, np.concatenate([*random_sets.chains(blocks, chosen[None], controls, seed)])[:, 0]
