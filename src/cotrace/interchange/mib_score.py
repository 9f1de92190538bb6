"""CPR and CMD as MIB's own evaluation integrates them (Mueller et al. 2025, arXiv 2504.13151).

Its grid is ten shares of the scored nodes, rounded down, from a thousandth to all; both areas are trapezoids between
the first and the last share. ``evaluation.curves`` integrates from nothing to everything, over the sizes found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from cotrace.arguments import check_kind
from cotrace.errors import DegenerateError, InputError
from cotrace.interchange.mib import ranking
from cotrace.problem.protocol import Problem
from cotrace.results import Frontier

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SMALLEST = 1e-6


@dataclass(frozen=True, kw_only=True)
class MibScore:
    """A ranking judged on MIB's grid. Higher CPR and lower CMD are better."""

    cpr: float
    """Area under the faithfulness."""
    cmd: float
    """Area between the faithfulness and 1."""
    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    """Components kept at each share."""
    faithfulness: tuple[float, ...]


def mib_score(problem: Problem, frontier: Frontier) -> MibScore:
    """CPR and CMD of a frontier's ranking (that which its circuit is written with) on a problem's pairs.

    Give the problem's ``heldout`` part for unseen pairs. At each share the best nodes keep running and all others take
    the donor's value; f is (M - M(none)) / (M(all) - M(none)). Costs one forward-equivalent for each different size.
    Raises InputError for another space, DegenerateError where keeping all is no different from keeping none.
    """
    check_kind("interchange.mib_score", "frontier", frontier, Frontier)
    if frontier.space.components != problem.space.components:
        raise InputError(
            f"mib_score: the frontier is of {frontier.space.outline}, the problem of {problem.space.outline}"
        )
    scores = ranking(frontier)
    order = sorted(range(len(problem.space)), key=lambda i: (-scores[problem.space[i]], i))
    sizes = [int(share * len(order)) for share in SHARES]
    found = dict(zip(sorted(set(sizes)), kept(problem, order, sorted(set(sizes))), strict=True))
    values = [float(found[size]) for size in sizes]
    cpr, cmd = areas(SHARES, values)
    return MibScore(cpr=cpr, cmd=cmd, shares=SHARES, sizes=tuple(sizes), faithfulness=tuple(values))


def areas(shares: Sequence[float], faithfulness: Sequence[float]) -> tuple[float, float]:
    """Trapezoids of f and of |1 - f| over the shares: CPR and CMD."""
    f = np.asarray(faithfulness, float)
    return float(np.trapezoid(f, shares)), float(np.trapezoid(np.abs(1 - f), shares))


def kept(problem: Problem, order: Sequence[int], sizes: Sequence[int]) -> Float[np.ndarray, "size"]:
    """Faithfulness when the first k of an order keep running."""
    masks = torch.ones(len(sizes), len(order))
    for row, size in zip(masks, sizes, strict=True):
        row[list(order[:size])] = 0
    values = problem.value(torch.cat([masks, torch.ones(1, len(order))])).double().cpu().numpy()
    if problem.mode == "keep":
        return np.asarray(values[:-1])
    everything = float(values[-1])
    if abs(everything) < SMALLEST:
        raise DegenerateError(
            f"swapping everything moves {problem.metric} by {everything:.2g}: faithfulness has nothing to be a share of"
        )
    return np.asarray((everything - values[:-1]) / everything)
