"""Certificates: the true optimum of a size where every set can be looked at, else a bound that the metric gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import combinations, islice
from math import comb, inf

import numpy as np
import torch
from jaxtyping import Bool

from cotrace.evaluation.records import Certificate
from cotrace.problem.evaluator import Chosen, Evaluator
from cotrace.problem.masks import mask_of
from cotrace.search.sets import bounds_of

BOUNDS: Mapping[tuple[str, str], float] = {
    ("odds_ratio", "minimise"): -1.0,
    ("probability", "maximise"): 1.0,
    ("probability", "minimise"): -1.0,
    ("accuracy", "maximise"): 1.0,
    ("accuracy", "minimise"): -1.0,
}
"""(metric, direction) -> what no effect in ``swap`` mode can exceed, by the metric's definition."""
BATCH = 4096


def certificate(training: Evaluator, chosen: Bool[np.ndarray, "n"], most: int) -> Certificate:
    """The gap to the best of all sets of this size, on the pairs that were searched."""
    k, effect = int(chosen.sum()), float(training.values(chosen[None])[0])
    count = comb(training.n, k)
    if count <= most or count <= _stored(training, k):
        best = max(_best(training, sets) for sets in _every(training.n, k))
        if best == -inf:
            words = f"none of all {count:,} sets of {k} keeps the constraints"
            return Certificate(k=k, effect=effect, optimum=None, gap=None, words=words)
        gap = best - training.sign * effect
        kept = " that keep the constraints" if bounds_of(training.problem) else ""
        words = f"the best of all {count:,} sets of {k}{kept} has {training.sign * best:+.4g}: the gap is {gap:.3g}"
        return Certificate(k=k, effect=effect, optimum=training.sign * best, gap=gap, words=words)
    problem = training.problem
    bound = BOUNDS.get((problem.metric, problem.direction)) if problem.mode == "swap" else None
    many = f"not all {rough(count)} sets of {k} were looked at"
    if bound is None:
        words = f"{many}, and no upper bound is known"
        return Certificate(k=k, effect=effect, optimum=None, gap=None, words=words)
    gap = training.sign * (bound - effect)
    words = f"{many}; by its definition {problem.metric} cannot move beyond {bound:+g}, {gap:.3g} from here"
    return Certificate(k=k, effect=effect, optimum=None, gap=gap, bound=bound, words=words)


def rough(count: int) -> str:
    """A count with four digits, also where no float is as large."""
    return f"{count:,.4g}" if count < 10**300 else f"{Decimal(count):.4g}"


def _best(training: Evaluator, sets: Chosen) -> float:
    """The best of these sets that keep every constraint by its margin, as searches must; larger is better."""
    values = training.sign * training.values(sets)
    if bounds := bounds_of(training.problem):
        masks = mask_of(training.problem, torch.from_numpy(sets).float())
        for row, sides in enumerate(training.problem.side_values(masks).double().tolist()):
            if any(bound.violation(side, bound.margin) for bound, side in zip(bounds, sides, strict=True)):
                values[row] = -inf
    return float(values.max())


def _stored(training: Evaluator, k: int) -> int:
    """How many sets of this size the search had evaluated."""
    return 0 if training.stored is None else int((training.stored.sizes == k).sum())


def _every(n: int, k: int) -> Iterator[Chosen]:
    everything = combinations(range(n), k)
    while members := list(islice(everything, BATCH)):
        sets = np.zeros((len(members), n), bool)
        np.put_along_axis(sets, np.array(members), True, axis=1)
        yield sets
