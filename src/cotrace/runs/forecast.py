"""Forecast: what a run will cost, and its time: forward-equivalents times the measured seconds of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from cotrace.evaluation.levels import LEVELS, plan
from cotrace.problem.executor import SumLoss
from cotrace.problem.language import LanguageProblem
from cotrace.problem.scorer import Scorer
from cotrace.search import Search

WITHIN = 0.5
"""How far a predicted time may be off, as a share of what a run then takes."""
GRADIENT_SHARE: Mapping[str, float] = {
    "pgbct": 1.0,
    "hardconcrete": 1.0,
    "matryoshka": 1.0,
    "pursuit": 0.6,
}
"""Share of a search's forward-equivalents that gradients take; all others only evaluate."""
FEWEST_MASKS = 4
QUICK_S, REPEATS = 0.3, 3
"""What takes less is timed several times."""


@dataclass(frozen=True)
class SearchForecast:
    """What one search will take."""

    forward_equivalents: float
    at_most: float
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What a run will take."""

    searches: Mapping[str, SearchForecast]
    evaluation: float
    """Forward-equivalents of judging the result, at most."""
    evaluation_s: float

    @property
    def seconds(self) -> float:
        """All searches, and judging the result."""
        return sum(search.seconds for search in self.searches.values()) + self.evaluation_s


def forecast(
    problem: LanguageProblem,
    searches: Sequence[Search],
    level: str = "none",
    *,
    others: Sequence[LanguageProblem] = (),
) -> Forecast:
    """Predict the costs, and time one gradient and one evaluation for them. Nothing is counted as cost.

    ``others`` are problems that every mask is put to as well: parts of a sum, and constraints.

    Raises InputError where a pass of one pair does not fit in memory.
    """
    scorer = problem.training.scorer
    judge = problem.counted_parts.get("heldout", problem.training).scorer
    shares = [GRADIENT_SHARE.get(search.name, 0.0) for search in searches]
    evaluation_s = _evaluation_s(scorer)
    gradient_s = _gradient_s(scorer) if any(shares) else 0.0
    for other in others:
        evaluation_s += _evaluation_s(other.training.scorer)
        gradient_s += _gradient_s(other.training.scorer) if any(shares) else 0.0
    evaluation_s, gradient_s = (seconds / (1 + len(others)) for seconds in (evaluation_s, gradient_s))
    found = {}
    for search, share in zip(searches, shares, strict=True):
        cost, most = ((1 + len(others)) * one for one in _costs(problem, search))
        found[search.name] = SearchForecast(cost, most, cost * (share * gradient_s + (1 - share) * evaluation_s))
    judging = (1 + len(others)) * _judging_cost(problem, level, searches[0])
    return Forecast(found, judging, judging * evaluation_s * _cells(judge) / _cells(scorer))


def _costs(problem: LanguageProblem, search: Search) -> tuple[float, float]:
    """Predicted and largest cost; a search on some of the pairs costs its share, and its sets are evaluated on all."""
    n, share = len(problem.space), problem.searched.size / problem.size
    last = min(getattr(search, "max_size", None) or n, n) if share < 1 else 0
    most = getattr(search, "most_cost", search.predicted_cost)(n)
    return share * search.predicted_cost(n) + last, share * most + last


def _judging_cost(problem: LanguageProblem, level: str, search: Search) -> float:
    """Forward-equivalents of an evaluation of this level, at most."""
    if level not in LEVELS:
        return 0.0
    n = len(problem.space)
    sizes = range(1, min(getattr(search, "max_size", None) or n, n) + 1)
    k = max(1, len(sizes) // 4)
    return plan(level, LEVELS[level], n=n, k=k, sizes=sizes, stored=True, singles=False).forward_equivalents


def _evaluation_s(scorer: Scorer) -> float:
    """Seconds per forward-equivalent of an evaluation of as many masks as a forward pass takes of the largest batch."""
    examples, share = _largest(scorer)
    n, cells = len(scorer.space), share * _cells(scorer)
    count = min(n, max(FEWEST_MASKS, int(scorer.batching.tokens // cells)))
    chosen = torch.linspace(0, n - 1, count).round().long()
    masks = torch.zeros(count, n, dtype=scorer.model.compute_dtype).scatter(1, chosen[:, None], 1)
    return _seconds(lambda: scorer.scores(masks, examples)) / (count * share)


def _gradient_s(scorer: Scorer) -> float:
    """Seconds per forward-equivalent of a gradient, which counts two."""
    examples, share = _largest(scorer)
    z = torch.full((len(scorer.space),), 0.5, dtype=scorer.model.compute_dtype)
    return _seconds(lambda: scorer.slope(z, SumLoss(), examples)) / (2 * share)


def _largest(scorer: Scorer) -> tuple[Sequence[int], float]:
    """The examples of the largest batch, and its share of all tokens."""
    largest = max(scorer.all_layouts, key=lambda layout: layout.cost)
    return largest.examples, largest.cost / _cells(scorer)


def _cells(scorer: Scorer) -> int:
    """What one forward pass over all pairs costs, in tokens."""
    return sum(layout.cost for layout in scorer.all_layouts)


def _seconds(run: Callable[[], object]) -> float:
    """Seconds of a call; the median of several after the first, which finds everything cold, where it is quick."""
    first = _once(run)
    return first if first > QUICK_S else median(_once(run) for _ in range(REPEATS))


def _once(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
