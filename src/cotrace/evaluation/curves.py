"""Faithfulness curves, and their areas CPR and CMD as MIB defines them (Mueller et al. 2025, arXiv 2504.13151).

f(C) = (M(C) - M(none)) / (M(all) - M(none)), where C keeps running and the rest takes the donor's value. CPR is the
area under f, CMD that between f and 1, by trapezoids over the share of components kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from cotrace.evaluation.records import Faithfulness
from cotrace.problem.protocol import Problem

SMALLEST_SWING = 1e-6
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.85)
"""Shares of the space near which sizes are taken; 0 and 1 are the two ends by definition."""


def curve_sizes(n: int, sizes: Sequence[int], most: int) -> list[int]:
    """The sizes found that lie nearest to the shares, the full set aside; at most so many."""
    inner = [size for size in sizes if size < n]
    if not inner:
        return []
    picked = sorted({min(inner, key=lambda size: abs(size - share * n)) for share in SHARES} | {inner[0]})
    return picked[:: -(-len(picked) // most)]


def faithfulness(problem: Problem, chosen: Bool[np.ndarray, "size n"]) -> Faithfulness:
    """f of each kept set and the two areas; refused where the full swap does next to nothing."""
    sizes = chosen.sum(1).tolist()
    values, why = _kept(problem, chosen)
    if why:
        return refused(problem, why)
    share = np.array([0, *sizes, chosen.shape[1]]) / chosen.shape[1]
    whole = np.concatenate([[0.0], values, [1.0]])
    return Faithfulness(
        sets_found_in=problem.mode,
        sizes=tuple(sizes),
        faithfulness=tuple(values.tolist()),
        cpr=float(np.trapezoid(whole, share)),
        cmd=float(np.trapezoid(np.abs(1 - whole), share)),
    )


def refused(problem: Problem, why: str) -> Faithfulness:
    """No curve, and why."""
    return Faithfulness(sets_found_in=problem.mode, sizes=(), faithfulness=(), cpr=None, cmd=None, refused=why)


def _kept(problem: Problem, chosen: Bool[np.ndarray, "size n"]) -> tuple[Float[np.ndarray, "kept"], str]:
    """Faithfulness of each set when it is kept, or why there is none."""
    masks = torch.from_numpy(~chosen).float()
    if problem.mode == "keep":
        return problem.value(masks).double().cpu().numpy(), ""
    full = float(problem.value(torch.ones(1, chosen.shape[1]))[0])
    if abs(full) < SMALLEST_SWING:
        return np.array(
            []
        ), f"swapping everything moves {problem.metric} by {full:.2g}: there is nothing to normalise by"
    return (full - problem.value(masks).double().cpu().numpy()) / full, ""
