"""Thrift: what components cost, and sets that are best for their cost rather than for their size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cotrace.components import ComponentSpace, Site
from cotrace.errors import InputError
from cotrace.problem.masks import chosen_of
from cotrace.search.sets import SetFunction
from cotrace.search.surrogate import Surrogate

BALANCED = "balanced"
"""All components of a site together cost as much as all of the first site, whose components cost 1."""
BUDGETS = 24
"""Costs at which the pass over costs stops."""

Weights = Mapping[str, float]
"""Site -> cost of one of its components."""


def settled(search: str, space: ComponentSpace, given: Weights | str | None) -> dict[str, float]:
    """Weights of the sites of a space; empty where none are given. Raises InputError, UnknownName."""
    if given is None:
        return {}
    if isinstance(given, str):
        if given != BALANCED:
            raise InputError(f"{search}: cost weights {given!r} are neither a cost for each site nor {BALANCED!r}")
        counts = Counter(component.site for component in space)
        return {site.value: counts[space.sites[0]] / counts[site] for site in space.sites}
    weights = {Site.named(site).value: float(weight) for site, weight in given.items()}
    for site, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"{search}: the cost weight of {site} is {weight}; give a finite number above 0")
        if site not in {member.value for member in space.sites}:
            raise InputError(f"{search}: cost weight for {site}, but the space has {space.outline}; leave it out")
    return {site.value: weights.get(site.value, 1.0) for site in space.sites}


def weight_vector(space: ComponentSpace, weights: Weights) -> Float[Tensor, "n"]:
    """The cost of each component."""
    return torch.tensor([weights.get(component.site.value, 1.0) for component in space], dtype=torch.float64)


def budget(costs: Float[Tensor, "n"], step: int) -> float:
    """The cost of one stop: geometric from the cheapest component's to that of everything."""
    low, high = float(costs.min()), float(costs.sum())
    return float(low * (high / low) ** ((step + 1) / BUDGETS))


def spend(function: SetFunction, surrogate: Surrogate, costs: Float[Tensor, "n"], step: int, most: int) -> None:
    """From the best set that the last stop could pay for, evaluate what the gradient proposes for this one's cost."""
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
