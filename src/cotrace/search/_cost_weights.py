"""Choosing by cost: sets by effect for each weighted cost, and the surrogate that proposes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cotrace.components import ERROR_SITES, FEATURE_SITES, ComponentSpace, Site
from cotrace.errors import InputError
from cotrace.problem.protocol import chosen_of, key_of
from cotrace.search.sets import SetFunction

LEARNING = 0.5
"""Share of a component's last prediction error that is carried over to its next prediction."""
TIE = 1e-3
"""Weight of the gradient half way, which ranks components where the gradient at a set is flat."""


class Proposal(NamedTuple):
    """A set near another one."""

    added: Int[Tensor, "added"]
    dropped: Int[Tensor, "dropped"]
    predicted: float
    """Score that the surrogate predicts."""


@dataclass(frozen=True)
class Surrogate:
    """Slopes of single components: the gradient at the set, plus each component's own learned correction.

    A gradient is the tangent of a curve that bends mostly by the component's own saturation, which is much the same at
    every set; so the error made at the last evaluation of a component mends its next prediction, at no cost.
    """

    joining: Float[Tensor, "n"]
    """Correction of the slope of a component that would be added."""
    leaving: Float[Tensor, "n"]
    """Correction of the slope of a component that would be removed."""
    halfway: Float[Tensor, "n"]
    """Gradient with every component half chosen."""

    @classmethod
    def start(cls, function: SetFunction) -> Surrogate:
        """Start without corrections; takes the gradient half way."""
        blank = torch.zeros(function.n)
        return cls(blank, blank.clone(), function.soft_gradient(torch.full((function.n,), 0.5)))

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors."""
        return {"joining": self.joining, "leaving": self.leaving, "halfway": self.halfway}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Surrogate:
        """Inverse of ``to_tensors``."""
        return cls(*(tensors[name].clone() for name in ("joining", "leaving", "halfway")))

    def slopes(self, chosen: Bool[Tensor, "n"], gradient: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Return the predicted worth of adding (or having) each component."""
        return gradient + torch.where(chosen, self.leaving, self.joining) + TIE * self.halfway

    def learn(
        self, function: SetFunction, chosen: Bool[Tensor, "n"], score: float, sets: Bool[Tensor, "set n"]
    ) -> None:
        """Take over, from evaluated sets that differ from ``chosen`` in one component, how wrong the gradient was."""
        gradient = function.gradient(chosen)
        for row in sets[(sets != chosen).sum(1) == 1]:
            i = int((row != chosen).nonzero()[0])
            change = (function.archive.score(key_of(row)) or 0.0) - score
            side, worth = (self.leaving, -change) if bool(chosen[i]) else (self.joining, change)
            side[i] = LEARNING * (worth - float(gradient[i]))


class Neighbourhood:
    """Sets near a chosen set, ranked by slopes."""

    def __init__(self, chosen: Bool[Tensor, "n"], slopes: Float[Tensor, "n"], score: float) -> None:
        self.chosen, self.slopes, self.score = chosen, slopes, score
        self.k, self.n = int(chosen.sum()), len(chosen)
        self.strong = torch.sort(torch.where(chosen, -torch.inf, slopes), descending=True, stable=True).indices
        self.weak = torch.sort(torch.where(chosen, slopes, torch.inf), stable=True).indices

    def nested(self, size: int, exchanged: int = 0) -> list[Proposal]:
        """The set of this size that the slopes rank best, with so many members exchanged; empty where there is none."""
        add, drop = self._counts(size, exchanged)
        return self._proposal(self.strong[:add], self.weak[:drop]) if add + drop else []

    def alternates(self, size: int, reach: int) -> list[Proposal]:
        """The same with its last addition or removal, or both, moved down the ranks by up to ``reach``."""
        add, drop = self._counts(size, 0 if size != self.k else 1)
        found: list[Proposal] = []
        for down, up in ((i, j) for i in range(reach + 1) for j in range(reach + 1) if 1 <= i + j <= reach):
            if (down and not add) or (up and not drop):
                continue
            found += self._proposal(_shifted(self.strong, add, down), _shifted(self.weak, drop, up))
        return found

    def _counts(self, size: int, exchanged: int) -> tuple[int, int]:
        """How many components join and leave."""
        return max(size - self.k, 0) + exchanged, max(self.k - size, 0) + exchanged

    def _proposal(self, added: Int[Tensor, "added"], dropped: Int[Tensor, "dropped"]) -> list[Proposal]:
        if bool(self.chosen[added].any()) or not bool(self.chosen[dropped].all()):
            return []
        gain = float(self.slopes[added].double().sum() - self.slopes[dropped].double().sum())
        return [Proposal(added, dropped, self.score + gain)]

    def set_of(self, proposal: Proposal) -> Bool[Tensor, "n"]:
        """The set that is proposed."""
        row = self.chosen.clone()
        row[proposal.added], row[proposal.dropped] = True, False
        return row


def _shifted(order: Int[Tensor, "n"], count: int, by: int) -> Int[Tensor, "count"]:
    """The first ``count`` of an order, the last of them moved down by ``by`` places."""
    return torch.cat([order[: max(count - 1, 0)], order[count - 1 + by : count + by]]) if count else order[:0]


def ladder(step: int) -> list[int]:
    """How many members to try exchanging in a step of so many components: 1 in small ones, up to 16 in large ones."""
    return [extra for extra in (1, 2, 4, 8, 16) if extra <= max(1, step // 4)]


BALANCED = "balanced"
"""All components of a site together cost as much as all of the first site, whose components cost 1."""
BUDGETS = 24
"""Costs at which the pass over costs stops."""

Weights = Mapping[str, float]
"""Site -> cost of one of its components."""
OF_ALL = {Site.FEATURE: FEATURE_SITES, Site.ERROR: ERROR_SITES}
"""Names that mean the parts of all dictionaries, however those of one place are named."""


def named_costs(search: str, given: Weights | str | None) -> Weights | str | None:
    """Return the cost of each site that is named, ``balanced``, or None. Text such as ``feature=0.1,head_output=1`` is
    taken apart. Raises InputError, UnknownName."""
    if given is None or given == BALANCED:
        return given
    if isinstance(given, str):
        parts = [part.partition("=") for part in given.split(",")]
        if not all(is_number(value) for _, _, value in parts):
            raise InputError(
                f"{search}: cost weights {given!r} are neither a cost for each site nor {BALANCED!r}; write them as in "
                "feature=0.1,head_output=1"
            )
        given = {site.strip(): float(value) for site, _, value in parts}
    weights = {Site.named(site).value: float(weight) for site, weight in given.items()}
    for site, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"{search}: the cost weight of {site} is {weight}; give a finite number above 0")
    return weights


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def settled(search: str, space: ComponentSpace, given: Weights | str | None) -> dict[str, float]:
    """Weights of the sites of a space; empty where none are given. Raises InputError, UnknownName."""
    costs = named_costs(search, given)
    if costs is None:
        return {}
    if isinstance(costs, str):
        counts = Counter(component.site for component in space)
        return {site.value: counts[space.sites[0]] / counts[site] for site in space.sites}
    weights: dict[str, float] = {}
    for name, weight in costs.items():
        mine = [site.value for site in space.sites if site is Site(name) or site in OF_ALL.get(Site(name), ())]
        if not mine:
            raise InputError(f"{search}: cost weight for {name}, but the space has {space.outline}; leave it out")
        weights |= {site: weight for site in mine if site == name or site not in costs}
    return {site.value: weights.get(site.value, 1.0) for site in space.sites}


def weight_vector(space: ComponentSpace, weights: Weights) -> Float[Tensor, "n"]:
    """The cost of each component."""
    return torch.tensor([weights.get(component.site.value, 1.0) for component in space], dtype=torch.float64)


def budget(costs: Float[Tensor, "n"], step: int) -> float:
    """The cost of one stop: geometric from the cheapest component's to that of everything."""
    low, high = float(costs.min()), float(costs.sum())
    return float(low * (high / low) ** ((step + 1) / BUDGETS))


def spend(function: SetFunction, surrogate: Surrogate, costs: Float[Tensor, "n"], step: int, most: int) -> None:
    """Evaluate what the gradient proposes for this stop's cost, from the best set that the last stop could pay for."""
    rows = function.archive.by_cost(costs) if step else []
    known = [entry for cost, entry in rows if cost <= budget(costs, step - 1) + 1e-9]
    chosen = chosen_of(known[-1].key, function.n) if known else function.empty()
    slopes = surrogate.slopes(chosen, function.gradient(chosen)).double()
    limit = budget(costs, step)
    sets = [
        filled(chosen, slopes / costs, costs, limit, most),
        filled(function.empty(), slopes / costs, costs, limit, most),
        filled(chosen, slopes, costs, limit, most),
    ]
    some = torch.stack([row for row in sets if row.any()] or [chosen])
    if some.any():
        function.scores(some)


def filled(
    chosen: Bool[Tensor, "n"], worth: Float[Tensor, "n"], costs: Float[Tensor, "n"], limit: float, most: int
) -> Bool[Tensor, "n"]:
    """The set with the components of most worth added, those of some worth only, as far as cost and count allow."""
    room = limit - float(costs[chosen].sum()) + 1e-9
    fits = ~chosen & (worth > 0) & (costs <= room)
    order = torch.sort(torch.where(fits, worth, -torch.inf), descending=True, stable=True).indices[: int(fits.sum())]
    order = order[costs[order].cumsum(0) <= room][: max(most - int(chosen.sum()), 0)]
    grown = chosen.clone()
    grown[order] = True
    return grown
