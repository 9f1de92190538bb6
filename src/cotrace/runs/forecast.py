"""Forecast: what a run will cost, how long it will take and how much memory, from a rehearsal and a short probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cotrace.evaluation.levels import LEVELS, plan
from cotrace.problem.language import LanguageProblem
from cotrace.problem.probe import Probe, Rates
from cotrace.problem.resident import resident_bytes
from cotrace.problem.scorer import Scorer
from cotrace.search import Search
from cotrace.search.archive import chosen_of
from cotrace.search.rehearsal import Rehearsal, rehearse
from cotrace.search.sets import mask_of

SAMPLED = 4
"""Evaluations that are timed, spread over those of the rehearsal."""
FEWEST_MASKS = 8
"""Of each of them, so many masks at least where it has them; more where more fit in one forward pass."""


@dataclass(frozen=True)
class SearchForecast:
    """What one search will take."""

    forward_equivalents: float
    at_most: float
    seconds: float | None
    """None where a batch does not fit in memory, so that nothing can be said."""


@dataclass(frozen=True)
class Forecast:
    """What a run will take."""

    searches: Mapping[str, SearchForecast]
    evaluation: float
    """Forward-equivalents of judging the result, at most."""
    evaluation_s: float | None
    peak_bytes: int | None
    """The most memory that the process will hold (on an accelerator, that torch will have allocated there)."""

    @property
    def seconds(self) -> float | None:
        """All searches, and judging the result."""
        parts = [search.seconds for search in self.searches.values()]
        known = [part for part in (*parts, self.evaluation_s) if part is not None]
        return sum(known) if len(known) == len(parts) + 1 else None


def forecast(problem: LanguageProblem, searches: Sequence[Search], level: str = "none") -> Forecast:
    """Rehearse the searches and time some of what they ask for. Nothing is counted, and no result depends on it."""
    before = resident_bytes(problem.model.device)
    rehearsals = {search.name: rehearse(search, problem.searched) for search in searches}
    clock = Clock(problem, rehearsals, level)
    found = {search.name: clock.search(search, rehearsals[search.name]) for search in searches}
    cost = clock.evaluation_cost(level, searches[0])
    seconds = clock.plain_s(cost) if clock.rates else None
    growth = clock.rates.peak_bytes if clock.rates else None
    return Forecast(found, cost, seconds, None if growth is None else before + growth)


class Clock:
    """Turns what is asked of a problem into seconds."""

    def __init__(self, problem: LanguageProblem, rehearsals: Mapping[str, Rehearsal | None], level: str) -> None:
        self.problem, self.n = problem, len(problem.space)
        seen, judging = problem.scorers
        self.probe = Probe(seen)
        self.judging_share = _cells(judging) / _cells(seen)
        """Tokens of the pairs that judge, over those of the pairs that a search sees."""
        self.rates: Rates | None = self.probe.rates(self._sampled(rehearsals), self._tokens(rehearsals, level))

    def _tokens(self, rehearsals: Mapping[str, Rehearsal | None], level: str) -> int:
        """Tokens of the largest forward pass: of a search, of a frontier, or of an evaluation, which fills them all."""
        if level in LEVELS or None in rehearsals.values():
            return self.probe.scorer.batching.tokens
        known = [rehearsal for rehearsal in rehearsals.values() if rehearsal is not None]
        calls = [call.masks.float() for r in known for call in r.calls if call.masks is not None]
        passes = [self.probe.largest_pass(masks) for masks in calls]
        share = min(1.0, self.judging_share)
        frontiers = [self._best(rehearsal).float() for rehearsal in known]
        return max([*passes, *(self.probe.largest_pass(sets, share) for sets in frontiers if len(sets)), 1])

    def _sampled(self, rehearsals: Mapping[str, Rehearsal | None]) -> list[Float[Tensor, "mask n"]]:
        """Some of the evaluations, evenly spread, each with about as many masks as one forward pass takes."""
        calls = chain.from_iterable(r.calls for r in rehearsals.values() if r is not None)
        asked = [call.masks for call in calls if call.masks is not None] or [torch.eye(self.n)[:FEWEST_MASKS]]
        room = self.probe.scorer.batching.tokens // self.probe.largest.cells
        picked = [asked[i] for i in _spread(len(asked), SAMPLED)]
        return [masks[_spread(len(masks), max(FEWEST_MASKS, room))].float() for masks in picked]

    def search(self, search: Search, rehearsal: Rehearsal | None) -> SearchForecast:
        """Cost and time of a search with the frontier at its end; without a rehearsal, by its own count."""
        bound = getattr(search, "most_cost", search.predicted_cost)(self.n)
        if rehearsal is None:
            cost = search.predicted_cost(self.n)
            return SearchForecast(cost, bound, self.plain_s(cost, judging=False) if self.rates else None)
        seconds = self._seconds(rehearsal) if self.rates else None
        share = self.problem.searched.size / self.problem.size
        cost = share * rehearsal.forward_equivalents + (len(self._best(rehearsal)) if share < 1 else 0)
        return SearchForecast(cost, share * bound + (share < 1) * self.n, seconds)

    def _seconds(self, rehearsal: Rehearsal) -> float:
        assert self.rates is not None, "asked only where there are rates"
        gradients = sum(call.share for call in rehearsal.calls if call.masks is None)
        units = sum(
            call.share * self.probe.units(call.masks.float()) for call in rehearsal.calls if call.masks is not None
        )
        asked = gradients * self.rates.gradient_s + units * self.rates.unit_s
        return rehearsal.scale * asked + rehearsal.own_s + self._frontier_s(rehearsal)

    def _frontier_s(self, rehearsal: Rehearsal) -> float:
        """The best set of every size on the pairs that judge, and on all pairs after a search on some of them."""
        assert self.rates is not None, "asked only where there are rates"
        sets = self._best(rehearsal)
        if not len(sets):
            return 0.0
        share = self.judging_share if self.problem.heldout is not None else 0.0
        share += self.problem.size / self.problem.searched.size * (self.problem.size > self.problem.searched.size)
        return self.probe.units(mask_of(self.problem, sets.float())) * share * self.rates.unit_s

    def _best(self, rehearsal: Rehearsal) -> Bool[Tensor, "set n"]:
        """The best set of every size that a rehearsal came by and the search reports."""
        archive, most = rehearsal.archive, rehearsal.largest or self.n
        entries = [] if archive is None else [archive.best(size) for size in archive.sizes if size <= most]
        rows = [chosen_of(entry.key, self.n) for entry in entries if entry is not None]
        return torch.stack(rows) if rows else torch.zeros(0, self.n, dtype=torch.bool)

    def plain_s(self, forward_equivalents: float, *, judging: bool = True) -> float:
        """Seconds of whole forward passes."""
        assert self.rates is not None, "asked only where there are rates"
        depth = len(self.probe.scorer.model.layers) + self.probe.head_units
        share = self.judging_share if judging else 1.0
        return forward_equivalents * depth * share * self.rates.plain_unit_s

    def evaluation_cost(self, level: str, search: Search) -> float:
        """Forward-equivalents of an evaluation of this level, at most."""
        if level not in LEVELS:
            return 0.0
        sizes = range(1, min(getattr(search, "max_size", None) or self.n, self.n) + 1)
        k = max(1, len(sizes) // 4)
        return plan(level, LEVELS[level], n=self.n, k=k, sizes=sizes, stored=True, singles=False).forward_equivalents


def _cells(scorer: Scorer) -> int:
    return sum(layout.cells for layout in scorer.all_layouts)


def _spread(count: int, most: int) -> list[int]:
    """At most so many indices below ``count``, evenly spread."""
    return list(range(count)) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]
