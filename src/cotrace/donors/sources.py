"""Donor sources: where the values that are swapped in come from. One class for each; all are soft."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cotrace.batches import EncodedPair, Encoding, Layout, Packing, Refusal, shared_prefix
from cotrace.components import Component, ComponentSpace, Site
from cotrace.donors.recorded import (
    ConstantDonors,
    Donors,
    Perturb,
    PositionDonors,
    RecordedDonors,
    ScaledDonors,
    mean_values,
    record,
)
from cotrace.errors import AlignmentError, InputError, UnsupportedSite
from cotrace.interventions.storage import Keep, in_memory
from cotrace.models import LanguageModel, Place
from cotrace.models.places import PlacedDictionary


@dataclass(frozen=True)
class Setting:
    """Inputs of every donor source."""

    model: LanguageModel
    """The model."""
    space: ComponentSpace
    """The components."""
    places: tuple[Place, ...]
    """Places whose values are recorded."""
    packing: Packing
    """How pairs share rows."""
    keep: Keep = in_memory
    """Gives the room that recorded values are kept in."""
    errors: frozenset[PlacedDictionary] = frozenset()
    """Dictionaries whose error is in the space."""
    layouts: Sequence[Layout] | None = None
    """The batches of the donor runs, where they were cut for more pairs than are given; None: cut for those."""

    def record(self, pairs: Sequence[EncodedPair], perturb: Perturb | None = None) -> RecordedDonors:
        """The values of the pairs' donor runs.

        Args:
            pairs: The pairs, as tokens.
            perturb: Change of the token embeddings; None for none.
        """
        layouts = self.layouts
        return record(self.model, pairs, self.places, self.packing, perturb, keep=self.keep, layouts=layouts)


@runtime_checkable
class DonorSource(Protocol):
    """A source of donor values."""

    @property
    def name(self) -> str:
        """The word for it in files and tables."""

    @property
    def paired(self) -> bool:
        """Whether every pair needs a counterfactual prompt."""

    @property
    def patterns(self) -> bool:
        """Whether its attention patterns have rows that sum to 1."""

    def settled(self, encoding: Encoding, training: Collection[str]) -> tuple[DonorSource, Encoding]:
        """Source and pairs with what the source takes from other pairs: from those that searches see, by id.

        Nothing of a held-out pair may enter the run of another one. Raises AlignmentError where no pair is left.

        Args:
            encoding: All pairs, as tokens.
            training: Ids of the pairs that searches see.
        """

    def prefix(self, pair: EncodedPair) -> int:
        """Leading prompt tokens at which base and donor run agree in every value.

        Args:
            pair: A pair, as tokens.
        """

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> Donors:
        """The donor values of these pairs, computed now.

        Args:
            setting: Model, space and places.
            pairs: The pairs, as tokens.
        """


class Alone:
    """Takes nothing from other pairs."""

    def settled(self, encoding: Encoding, training: Collection[str]) -> tuple[Any, Encoding]:
        return self, encoding


class _NoPrefix:
    """Donor values that differ from the first token on."""

    def prefix(self, pair: EncodedPair) -> int:
        return 0


@dataclass(frozen=True)
class Counterfactual(Alone):
    """The paired prompt's own run."""

    name = "counterfactual"
    paired = True
    patterns = True

    def prefix(self, pair: EncodedPair) -> int:
        return shared_prefix(pair)

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> RecordedDonors:
        return setting.record(pairs)


@dataclass(frozen=True)
class Zero(Alone, _NoPrefix):
    """Zeros: the component is taken out."""

    name = "zero"
    paired = False
    patterns = False

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> ConstantDonors:
        like = torch.zeros(0, dtype=setting.model.dtype)
        return ConstantDonors({place: like.new_zeros(place.units * place.width) for place in setting.places})


@dataclass(frozen=True, kw_only=True)
class Mean(_NoPrefix):
    """The mean value over a reference set: pooled over all its tokens, or for each position."""

    reference: Sequence[EncodedPair] | None = None
    """Encoded reference prompts; None takes the base prompts that searches see, for held-out pairs too."""
    per_position: bool = False
    """One mean for each position rather than one for all tokens."""

    name = "mean"
    paired = False
    patterns = False

    def settled(self, encoding: Encoding, training: Collection[str]) -> tuple[Mean, Encoding]:
        seen = tuple(pair for pair in encoding.pairs if pair.pair.id in training)
        return (self if self.reference else replace(self, reference=seen)), encoding

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> Donors:
        reference, packing = self.runs(setting.packing, pairs)
        means = mean_values(setting.model, reference, setting.places, packing, self.per_position)
        if self.per_position:
            return PositionDonors(means)
        return ConstantDonors({place: value[0] for place, value in means.items()})

    def recorded(self, setting: Setting, pairs: Sequence[EncodedPair]) -> RecordedDonors:
        """The values that are averaged. Raises InputError where a position has none.

        Args:
            setting: Model, space and places.
            pairs: The pairs, as tokens.
        """
        reference, packing = self.runs(setting.packing, pairs)
        return record(setting.model, reference, setting.places, packing)

    def runs(self, packing: Packing, pairs: Sequence[EncodedPair]) -> tuple[Sequence[EncodedPair], Packing]:
        """The prompts that are averaged over, and how they are run. Raises InputError where a position has no value.

        Args:
            packing: How pairs share rows.
            pairs: The pairs, as tokens.
        """
        reference = self.reference or pairs
        if self.per_position and packing.patch_answers:
            raise InputError(
                "mean by position has no value behind the prompt: use positions='prompt', or donors='mean=task'"
            )
        longest, needed = (max(len(pair.prompt) for pair in some) for some in (reference, pairs))
        if self.per_position and longest < needed:
            raise InputError(
                f"mean by position: the longest reference prompt has {longest} tokens, a pair has {needed}"
            )
        # What was found of the pairs, that no window is shorter than a row, need not hold of longer prompts.
        return reference, replace(packing, patch_answers=False, packed=packing.packed and longest <= needed)


@dataclass(frozen=True, kw_only=True)
class Resample:
    """Another pair's base run, of equal length, drawn by seed from those that searches see.

    Pairs without such a partner are refused.
    """

    seed: int = 0

    name = "resample"
    paired = False
    patterns = True

    def settled(self, encoding: Encoding, training: Collection[str]) -> tuple[Resample, Encoding]:
        generator = np.random.default_rng(self.seed)
        seen: dict[int, list[int]] = {}
        for i, pair in enumerate(encoding.pairs):
            if pair.pair.id in training:
                seen.setdefault(len(pair.prompt), []).append(i)
        partner: dict[int, int] = {}
        for members in seen.values():
            order = generator.permutation(members).tolist()
            if len(order) > 1:
                partner |= dict(zip(order, [*order[1:], order[0]], strict=True))
        for i, pair in enumerate(encoding.pairs):
            same = seen.get(len(pair.prompt), [])
            if same and pair.pair.id not in training:
                partner[i] = same[int(generator.integers(len(same)))]
        return self, _with_partners(encoding, partner)

    def prefix(self, pair: EncodedPair) -> int:
        return shared_prefix(pair)

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> RecordedDonors:
        return setting.record(pairs)


def _with_partners(encoding: Encoding, partner: Mapping[int, int]) -> Encoding:
    pairs = encoding.pairs
    kept = tuple(replace(pairs[i], donor=pairs[partner[i]].prompt) for i in range(len(pairs)) if i in partner)
    alone = tuple(
        Refusal(p.pair.id, f"pair {p.pair.id}: the search sees no other prompt of {len(p.prompt)} tokens", p.pair.group)
        for i, p in enumerate(pairs)
        if i not in partner
    )
    if not kept:
        raise AlignmentError(
            "donors='resample': no two prompts have the same number of tokens; use another donor source"
        )
    return Encoding(kept, (*encoding.refused, *alone), encoding.template)


@dataclass(frozen=True, kw_only=True, eq=False)
class Vector(Alone, _NoPrefix):
    """A tensor of the user's own for each component: [width], the numbers that the component has at one position."""

    values: Mapping[str, Tensor]
    """Name of a component -> its tensor [width]."""

    name = "vector"
    paired = False
    patterns = False

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> ConstantDonors:
        given = {Component.parse(name): value for name, value in self.values.items()}
        table = {(p.site, p.layer): p for p in setting.places}
        values = {p: torch.zeros(p.units, p.width, dtype=setting.model.dtype) for p in setting.places}
        for component in setting.space:
            place = table[component.site, component.layer]
            values[place][component.unit or 0] = vector_of(given, component, place.width)
        return ConstantDonors({place: value.flatten() for place, value in values.items()})


def vector_of(given: Mapping[Component, Tensor], component: Component, width: int) -> Tensor:
    """The tensor that is given for a component. Raises InputError where there is none of that width."""
    if component not in given:
        raise InputError(f"donors='vector': no tensor for {component}; give one of shape [{width}] for each component")
    if tuple(given[component].shape) != (width,):
        raise InputError(f"donors='vector': {component} has shape {list(given[component].shape)}, not [{width}]")
    return given[component]


@dataclass(frozen=True)
class Scale(Alone, _NoPrefix):
    """The own value times a factor: 0 takes a component out, 1 leaves it."""

    factor: float | int

    name = "scale"
    paired = False
    patterns = False

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> ScaledDonors:
        return ScaledDonors(float(self.factor))


def check_sites(source: DonorSource, space: ComponentSpace, align: str) -> None:
    """Raises UnsupportedSite for a donor that cannot act at a site (the donor x site table of the docs).

    Args:
        source: The donor source.
        space: The components.
        align: ``exact``, ``ends`` or ``spans``.
    """
    if Site.ATTENTION_PATTERN not in space.sites:
        return
    if not source.patterns:
        raise UnsupportedSite(
            f"attention_pattern takes only rows that sum to 1, which donors={source.name!r} does not give; use "
            "counterfactual, noise or resample, or the site head_output"
        )
    if align != "exact":
        raise UnsupportedSite(f"attention_pattern takes only whole rows, so not align={align!r}; use align='exact'")
