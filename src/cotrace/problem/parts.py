"""Parts: what is built for each list of pairs of a problem (training, subset, held out, audit), within one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from cotrace.batches import EncodedPair, Packing, answer_layouts
from cotrace.batches.encode import bare_prompts
from cotrace.components import ComponentSpace
from cotrace.donors import Counterfactual, DonorSource, Noise, Resample, Setting, donors_of
from cotrace.donors.again import DelayedDonors, RecomputedDonors
from cotrace.donors.record import recorded_bytes
from cotrace.donors.store import Donors
from cotrace.errors import InputError
from cotrace.interventions import DelayedPrefixes, PrefixCache, keep_prefixes
from cotrace.interventions.storage import NoRoom, Storage, in_memory
from cotrace.metrics import AnyMetric
from cotrace.models import LanguageModel, Place
from cotrace.models.unchanged import ModelState
from cotrace.problem.aim import part_of
from cotrace.problem.batching import Batching, Replan
from cotrace.problem.executor import EXECUTOR, Executor
from cotrace.problem.pairs import PairProblem
from cotrace.problem.protocol import JudgePairs, Mode
from cotrace.problem.scorer import Scorer
from cotrace.problem.slots import Slots
from cotrace.problem.whole import SetProblem

JUDGED = 1_000
"""Held-out pairs that judge unless told: more narrow an interval by little, and cost as much as they are more."""
RECORDED = (Counterfactual, Noise, Resample)
"""Donors whose values are those of a run of each pair."""


def records_alone(source: DonorSource) -> bool:
    """Whether a pair's values are known not to depend on the other pairs: not of classes that a user derives."""
    return type(source) in RECORDED


@dataclass(frozen=True)
class Builder:
    """What all parts of a problem have in common."""

    model: LanguageModel
    space: ComponentSpace
    source: DonorSource
    packing: Packing
    metric: AnyMetric
    mode: Mode
    mean: bool
    """Whether an answer's score is the mean over its tokens."""
    batching: Batching
    storage: Storage
    state: ModelState | None = None
    """The model that donor values and base scores are of; no part is run by another."""
    memory: str | float | int | None = None
    """The budget as the user gave it: whoever runs batches elsewhere has one of its own."""
    executor: Executor = field(default_factory=EXECUTOR.get)
    """Where the parts' batches are run."""

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every place that the space has components at, once."""
        return tuple(dict.fromkeys(place for place, _ in Slots.of(self.model, self.space).spots))

    @property
    def hosts(self) -> tuple[Place, ...]:
        """The places whose values a run records: those of dictionaries in the stead of their features."""
        pairs = ((place,) if place.dictionary is None else place.dictionary.hosts for place in self.places)
        return tuple(dict.fromkeys(place for hosts in pairs for place in hosts))

    def least_memory(self, pairs: Sequence[EncodedPair]) -> int:
        """Bytes of donor values that the largest forward pass over these pairs needs at once."""
        if not isinstance(self.source, RECORDED):
            return 0
        layouts = answer_layouts(pairs, range(len(pairs)), self.packing.holding(self.batching.tokens))
        some = ([pairs[example] for example in layout.examples] for layout in layouts)
        return max(recorded_bytes(few, self.hosts, self.packing, self.model.dtype) for few in some)

    def part(self, pairs: Sequence[EncodedPair]) -> PairProblem | SetProblem:
        """The problem on these pairs. Raises InputError, ModelError."""
        if self.state is not None:
            self.state.check()
        if self.metric.reads == "logits" and self.packing.frequencies is not None:
            pairs = bare_prompts(pairs)  # an answer behind the prompt might change the frequencies of the prompt
        sources = self.source.each_draw() if isinstance(self.source, Noise) else [self.source]
        return part_of([self._scorer(pairs, source) for source in sources], self.metric, self.mode)

    def _scorer(self, pairs: Sequence[EncodedPair], source: DonorSource) -> Scorer:
        while True:
            try:  # what does not fit is begun again, smaller
                with self.batching.passing(self.batching.tokens, divisible=True, gradient=False):
                    return self._built(pairs, source)
            except Replan:
                continue

    def _built(self, pairs: Sequence[EncodedPair], source: DonorSource) -> Scorer:
        prefix: PrefixCache | DelayedPrefixes | None
        if self.executor.elsewhere:  # donor values and prefixes are made where they are used
            packing = self._packing
            prefix = DelayedPrefixes(lambda: keep_prefixes(self.model, pairs, packing))
        else:
            pairs, prefix = self._prefixes(pairs)
        return Scorer(
            self.model,
            pairs,
            self.space,
            self._donors_of(pairs, source),
            self.packing,
            mean=self.mean,
            reads=self.metric.reads,
            prefix=prefix,
            batching=self.batching,
            state=self.state,
            keep=self.storage,
            source=source,
            executor=self.executor,
            memory=self.memory,
        )

    def _donors_of(self, pairs: Sequence[EncodedPair], source: DonorSource) -> Donors:
        """Donor values now, or when they are asked for where whoever runs a batch makes its own."""
        if self.executor.elsewhere and records_alone(source):
            return DelayedDonors(partial(self._donors, pairs, source))
        return self._donors(pairs, source)

    def _prefixes(self, pairs: Sequence[EncodedPair]) -> tuple[Sequence[EncodedPair], PrefixCache | None]:
        """Keys and values of the prefixes; where they have no room the pairs are run whole."""
        try:
            with self.storage.together():
                return pairs, keep_prefixes(self.model, pairs, self._packing, self.storage)
        except NoRoom:
            return [replace(pair, prefix=0) for pair in pairs], None

    def _donors(self, pairs: Sequence[EncodedPair], source: DonorSource) -> Donors:
        """Donor values; where they have no room they are recorded for each forward pass anew."""
        setting = Setting(self.model, self.space, self.places, self._packing, self.storage)
        try:
            with self.storage.together():
                return donors_of(source, setting, pairs)
        except NoRoom:
            self.storage.used["recomputed"] += recorded_bytes(pairs, self.hosts, self.packing, self.model.dtype)
            return RecomputedDonors(partial(donors_of, source, replace(setting, keep=in_memory)), pairs, self.packing)

    @property
    def _packing(self) -> Packing:
        return self.packing.holding(self.batching.tokens)


def subset_of(
    pairs: Sequence[int], labels: Sequence[str], count: int | None, seed: int, option: str = "search_pairs"
) -> list[int] | None:
    """At most ``count`` of the pairs, whole groups drawn by seed; None where that is all. InputError."""
    if count is not None and count < 1:
        raise InputError(f"{option} is {count}: give at least 1 pair")
    if count is None or count >= len(pairs):
        return None
    taken: list[int] = []
    members = _members(pairs, labels)
    names = list(members)
    for i in np.random.default_rng([seed, len(names)]).permutation(len(names)):
        if len(taken) + len(members[names[i]]) <= count:
            taken += members[names[i]]
    if not taken:
        smallest = min(map(len, members.values()))
        raise InputError(
            f"{option} is {count}, and pairs that must stay together come in groups of {smallest} or more: "
            f"give at least {smallest}"
        )
    return sorted(taken)


def judging(heldout: Sequence[int], labels: Sequence[str], given: JudgePairs, seed: int) -> list[int]:
    """Of the held-out pairs those that judge, whole groups drawn by seed. Raises InputError."""
    if isinstance(given, str) and given != "all":
        raise InputError(f"judge_pairs is {given!r}: give a number of pairs, or 'all'")
    count = given if isinstance(given, int) else None
    if given is None and heldout:  # one whole group at least
        count = max(JUDGED, min(map(len, _members(heldout, labels).values())))
    chosen = subset_of(heldout, labels, count, seed, "judge_pairs")
    return list(heldout) if chosen is None else chosen


def _members(pairs: Sequence[int], labels: Sequence[str]) -> dict[str, list[int]]:
    """The pairs of each group."""
    found: dict[str, list[int]] = {}
    for index in pairs:
        found.setdefault(labels[index], []).append(index)
    return found
