"""Building a problem from its settings: pairs are encoded and divided, donors recorded, scorers built; and the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, get_args

import numpy as np

from cotrace.batches import ALIGNMENTS, Align, Bos, EncodedPair, Encoding, Packing, answer_layouts, encode_task
from cotrace.batches.encode import ALL, bare_prompts
from cotrace.components import HELD, OF_DICTIONARIES, Component, ComponentSpace, Site, overlap
from cotrace.donors import Counterfactual, DonorSource, Noise, Resample, Scale, Setting, donors_of
from cotrace.donors.recorded import DelayedDonors, Donors, RecomputedDonors, recorded_bytes
from cotrace.errors import AlignmentError, InputError, unknown
from cotrace.interventions import DelayedPrefixes, PrefixCache, keep_prefixes
from cotrace.interventions.storage import NoRoom, Storage, in_memory
from cotrace.metrics import AnyMetric
from cotrace.models import LanguageModel, Place
from cotrace.models.language_model import ModelState
from cotrace.models.places import PlacedDictionary
from cotrace.problem.batching import Batching, Replan, Slots
from cotrace.problem.passes import Rows, check_budget, memory_budget
from cotrace.problem.protocol import JudgePairs, Mode
from cotrace.problem.scored import PairProblem
from cotrace.problem.scorer import EXECUTOR, Executor, Scorer
from cotrace.problem.set_metric import SetProblem, part_of
from cotrace.prompts import PromptPair, Task
from cotrace.prompts.task import groups, split_ids, warn_of_repeats

JUDGED = 1_000
"""Held-out pairs that judge unless told: more narrow an interval by little, and cost as much as they are more."""
RECORDED = (Counterfactual, Noise, Resample)
"""Donors whose values are those of a run of each pair."""


def records_alone(source: DonorSource) -> bool:
    """Whether a pair's values are known not to depend on the other pairs: not of classes that a user derives."""
    return type(source) in RECORDED


def recorded_elsewhere(source: DonorSource | None, space: ComponentSpace) -> bool:
    """Whether a worker records the donor values of its batches itself. Features are encoded here, all in one, so that
    the bytes do not depend on how pairs are handed out.
    """
    return source is not None and records_alone(source) and OF_DICTIONARIES.isdisjoint(space.sites)


@dataclass(frozen=True)
class Builder:
    """The settings that all parts of a problem share."""

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
        """The places whose values a run records: dictionaries' places in place of their features."""
        pairs = ((place,) if place.dictionary is None else place.dictionary.hosts for place in self.places)
        return tuple(dict.fromkeys(place for hosts in pairs for place in hosts))

    def least_memory(self, pairs: Sequence[EncodedPair]) -> int:
        """Bytes of donor values that the largest forward pass over these pairs needs at once."""
        if not isinstance(self.source, RECORDED):
            return 0
        layouts = answer_layouts(pairs, range(len(pairs)), self.packing.holding(self.batching.tokens))
        some = ([pairs[example] for example in layout.examples] for layout in layouts)
        return max(recorded_bytes(few, self.hosts, self.packing, self.model.dtype) for few in some)

    def check_memory(self, settled: Settled, given: str | float | int) -> None:
        """Raise InputError where the budget that was given is below what one forward pass of some part needs."""
        parts = [settled.pairs(indices) for indices in (settled.training, settled.judged) if indices]
        check_budget(given, memory_budget(given, self.model.device), max(map(self.least_memory, parts)))

    def with_prefixes(self, settled: Settled) -> Settled:
        """The pairs with the prefix that is kept of each."""
        if not self.packing.keep_prefix:
            return settled
        keeps, pairs = self.packing.keeps_prefix, settled.encoding.pairs
        found = (replace(pair, prefix=self.source.prefix(pair) if keeps(pair) else 0) for pair in pairs)
        return replace(settled, encoding=replace(settled.encoding, pairs=tuple(found)))

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
                with self.batching.passing(None):
                    return self._built(pairs, source)
            except Replan:
                continue

    def _built(self, pairs: Sequence[EncodedPair], source: DonorSource) -> Scorer:
        prefix: PrefixCache | DelayedPrefixes | None
        donors: Donors | None = None
        if self.executor.elsewhere:  # donor values and prefixes are made where they are used
            if recorded_elsewhere(source, self.space):
                donors = DelayedDonors(partial(self._donors, pairs, source))
            packing = self._packing
            prefix = DelayedPrefixes(lambda: keep_prefixes(self.model, pairs, packing))
        else:
            pairs, prefix = self._prefixes(pairs)
        return Scorer(
            self.model,
            pairs,
            self.space,
            self._donors(pairs, source) if donors is None else donors,
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
    """Return the held-out pairs that judge, whole groups drawn by seed. Raises InputError."""
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


HOLDERS: Mapping[Site, tuple[Site, ...]] = {site: tuple(o for o, held in HELD.items() if site in held) for site in Site}
"""Site -> the sites that hold it."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How prompts are written as tokens."""

    align: Align
    prepend_bos: Bos
    template_arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which pairs searches see, which judge, and which nothing touches until the end."""

    holdout: float | int
    audit: float | int
    split_by: str | None
    seed: int
    search_pairs: int | None
    judge_pairs: JudgePairs

    @property
    def words(self) -> str:
        """The division as options, those that are not in use left out."""
        rest = {"audit": self.audit or None, "split_by": self.split_by, "search_pairs": self.search_pairs}
        rest["judge_pairs"] = self.judge_pairs
        given = {"holdout": self.holdout, "seed": self.seed} | rest
        return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)

    def drawn(self, judged: Sequence[int], unseen: Sequence[int]) -> str:
        """Which of the unseen pairs judge, in words; empty where they all do."""
        if len(judged) == len(unseen):
            return ""
        return f"{len(judged):,} of {len(unseen):,} held-out pairs judge, whole groups drawn by seed {self.seed}"


@dataclass(frozen=True)
class Settled:
    """The usable pairs as tokens with their donor prompts, and the indices of each part among them."""

    donors: DonorSource
    encoding: Encoding
    groups: Mapping[str, str]
    """Id of a pair -> the pairs that it stays together with in a split."""
    training: Sequence[int]
    heldout: Sequence[int]
    judged: Sequence[int]
    """Held-out pairs that judge."""
    audit: Sequence[int]
    subset: Sequence[int] | None
    """Training pairs that searches see; None for all."""

    def pairs(self, indices: Sequence[int]) -> list[EncodedPair]:
        """Some of the pairs."""
        return [self.encoding.pairs[i] for i in indices]


def settle(
    model: LanguageModel, task: Task, space: ComponentSpace, source: DonorSource, writing: Writing, division: Division
) -> Settled:
    """Tokens, then the split, then what donors take from other pairs. Raises AlignmentError, InputError."""
    tokens = encoded(model, task, space, source, writing)
    ids = split_ids(
        [pair.pair for pair in tokens.pairs],
        division.holdout,
        division.seed,
        audit=division.audit,
        by=division.split_by,
    )
    if task.encoding != "text":  # there the prompt is but the first word of what is scored
        warn_of_repeats([pair.pair for pair in tokens.pairs], ids)
    source, tokens = source.settled(tokens, ids[0])
    pairs = [pair.pair for pair in tokens.pairs]
    labels = groups(pairs, division.split_by)
    training, heldout, audit = (_indices(pairs, part) for part in ids)
    subset = subset_of(training, labels, division.search_pairs, division.seed)
    units = dict(zip((pair.id for pair in pairs), labels, strict=True))
    judged = judging(heldout, labels, division.judge_pairs, division.seed)
    return Settled(source, tokens, units, training, heldout, judged, audit, subset)


def encoded(model: LanguageModel, task: Task, space: ComponentSpace, source: DonorSource, writing: Writing) -> Encoding:
    """The pairs as tokens, with the donor prompts and roles that are needed."""
    roles = dict.fromkeys(block.role for block in space.blocks)
    return encode_task(
        task,
        model.require_tokenizer(),
        paired=source.paired,
        align=writing.align,
        roles=[*roles, *([source.role] if isinstance(source, Noise) else [])],
        prepend_bos=writing.prepend_bos,
        template_arguments=writing.template_arguments,
        most_tokens=model.most_tokens,
    )


def _held_feature(model: LanguageModel, space: ComponentSpace) -> tuple[Component, Component] | None:
    """A component whose value a feature or error of the space is a part of, and that feature or error; else None."""
    found = (_inside(space, one) for one in model.dictionaries)
    return next((both for both in found if both is not None), None)


def _inside(space: ComponentSpace, one: PlacedDictionary) -> tuple[Component, Component] | None:
    """The same of one dictionary."""
    layer = [component for component in space if component.layer == one.layer]
    holders = [component for component in layer if component.site in (one.site, *HOLDERS[one.site])]
    for component in layer if holders else ():
        for outer in holders if component.site in (one.feature_site, one.error_site) else ():
            if outer.role == component.role or ALL in (outer.role, component.role):
                return outer, component
    return None


def overlap_words(model: LanguageModel, space: ComponentSpace, source: DonorSource, mode: str) -> str | None:
    """Why zeros, or squares of a factor, are to be expected where a component of the space holds another."""
    found = overlap(space) or (_held_feature(model, space) if model.dictionaries else None)
    if found is None:
        return None
    outer, inner = found
    if mode == "keep":
        return (
            f"{outer} holds {inner}: in keep mode what is not kept takes the donor's value, so {inner} has effect 0 "
            f"unless {outer} is kept as well; name sites that do not hold one another, or use mode='swap'"
        )
    if isinstance(source, Scale):
        return (
            f"{outer} holds {inner}: where both are chosen the value is scaled twice, by the square of the factor; "
            "name sites that do not hold one another"
        )
    return None


def _indices(pairs: Sequence[PromptPair], part: Collection[str]) -> list[int]:
    """Which of the pairs belong to a part. Raises AlignmentError where all of the part's pairs were refused."""
    found = [i for i, pair in enumerate(pairs) if pair.id in part]
    if part and not found:
        raise AlignmentError(
            f"the donors have no values for any of {len(part)} pairs that were set aside together: use another donor "
            "source, or another holdout"
        )
    return found


def check_options(
    mode: str, align: str, positions: str, checkpointing: str, packing: str, batch_tokens: int | None
) -> None:
    """Raise UnknownName, InputError."""
    for kind, given, options in (
        ("mode", mode, ("swap", "keep")),
        ("alignment", align, ALIGNMENTS),
        ("positions", positions, ("prompt", "prompt+answer")),
        ("checkpointing", checkpointing, ("auto", "on", "off")),
        ("packing", packing, get_args(Rows)),
    ):
        if given not in options:
            raise unknown(kind, given, options)
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}: give at least 1")
