"""Spaces: which components of a model a search may choose from: whole sites, single names, layers, a shortlist.

A dictionary has many features, and on some pairs most of them are silent in both runs: nothing could be swapped. The
components are those that are active in the base run or in the donor's, at a token where the two may differ, of a pair
that searches see. The others are no components; what they add in some masked or held-out run goes with the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing, answer_layouts
from cotrace.components import FEATURE_SITES, Component, ComponentSpace, Site
from cotrace.donors import DonorSource, Noise, Setting, Vector, donors_of
from cotrace.donors.features import JointDonors
from cotrace.errors import DegenerateError
from cotrace.interventions import forward
from cotrace.models import LanguageModel
from cotrace.models.places import PlacedDictionary

Flags = dict[tuple[PlacedDictionary, str], Tensor]
"""(dictionary, role) -> which of its features are active [feature]."""
NAMED = 3
"""Dictionaries that a summary names each."""


class PoorDictionary(UserWarning):
    """A dictionary reconstructs the values of the pairs worse than their mean does."""


@dataclass(frozen=True)
class Told:
    """One dictionary in a problem."""

    name: str
    layer: int
    site: str
    size: int
    """Features that it has."""
    active: int
    """Features that are components."""
    explained: float
    """Share of the variance of the base run's values that it reconstructs, over the tokens that may be patched."""

    @property
    def words(self) -> str:
        """One phrase."""
        return (
            f"{self.active:,} of the {self.size:,} features of {self.name} (L{self.layer} {self.site}, explained "
            f"variance {self.explained:.2f})"
        )


def told_words(told: Sequence[Told]) -> str:
    """All dictionaries of a problem in one sentence; more than three by their sums."""
    if len(told) <= NAMED:
        each = " and ".join(one.words for one in told)
    else:
        active, size = sum(one.active for one in told), sum(one.size for one in told)
        fits = sorted(one.explained for one in told)
        each = (
            f"{active:,} of the {size:,} features of {len(told)} dictionaries (explained variance {fits[0]:.2f} to "
            f"{fits[-1]:.2f})"
        )
    return f"Features: {each}, those active in the base or donor run of a training pair"


@dataclass(frozen=True)
class Active:
    """The model whose dictionaries tell the active features apart, the space of those, and what was found."""

    model: LanguageModel
    space: ComponentSpace
    told: tuple[Told, ...]


@torch.no_grad()
def active_features(
    model: LanguageModel, space: ComponentSpace, source: DonorSource, packing: Packing, pairs: Sequence[EncodedPair]
) -> Active:
    """The features of the space that are active on these pairs. Raises DegenerateError where there is none."""
    blocks = [block for block in space.blocks if block.site in FEATURE_SITES]
    named = {(block.layer, block.site) for block in blocks}
    held = [one for one in model.dictionaries if (one.layer, one.feature_site) in named]
    roles = list(dict.fromkeys(block.role for block in blocks))
    flags: Flags = {(one, role): _none(one) for one in held for role in roles}
    fits = {one: _Fit() for one in held}
    prefixes = torch.tensor([source.prefix(pair) for pair in pairs])
    packing = replace(packing, keep_prefix=False)
    layouts = [one for whole in answer_layouts(pairs, range(len(pairs)), packing) for one in whole.passes]
    _note_base(model, layouts, flags, fits, prefixes)
    _note_donors(model, space, source, packing, pairs, layouts, flags, prefixes)
    found = {key: torch.nonzero(flag).flatten() for key, flag in flags.items()}
    if not any(len(units) for units in found.values()):
        raise DegenerateError(
            f"no feature of {', '.join(one.dictionary.name for one in held)} is active on these pairs where base and "
            "donor run may differ: check that it belongs to this model and hook, or use another dictionary"
        )
    apart = {one: one.telling(torch.nonzero(_any(flags, one)).flatten()) for one in held}
    told = tuple(_told(one, apart[one], fits[one]) for one in held)
    other = model.holding(tuple(apart.get(one, one) for one in model.dictionaries))
    return Active(
        other,
        _space(space, {(one.layer, one.feature_site, role): units.tolist() for (one, role), units in found.items()}),
        told,
    )


def _none(placed: PlacedDictionary) -> Bool[Tensor, "feature"]:
    return torch.zeros(placed.dictionary.size, dtype=torch.bool)


def _any(flags: Flags, placed: PlacedDictionary) -> Bool[Tensor, "feature"]:
    return torch.stack([flag for (one, _), flag in flags.items() if one is placed]).any(0)


def _told(placed: PlacedDictionary, apart: PlacedDictionary, fit: _Fit) -> Told:
    active = 0 if apart.active is None else len(apart.active)
    dictionary = placed.dictionary
    return Told(dictionary.name, placed.layer, placed.site.value, dictionary.size, active, fit.explained)


def _space(space: ComponentSpace, units: Mapping[tuple[int, Site, str], Sequence[int]]) -> ComponentSpace:
    """The space with the features of these units only."""
    parts: list[Component] = []
    for block in space.blocks:
        if block.site in FEATURE_SITES:
            own = units[block.layer, block.site, block.role]
            parts += [Component(block.site, block.layer, unit, block.role) for unit in own]
        else:
            parts += space[block.start : block.stop]
    return ComponentSpace(tuple(parts))


@dataclass
class _Fit:
    """Sums from which the explained variance follows."""

    missed: float = 0.0
    squares: float = 0.0
    sums: Any = 0.0
    count: int = 0

    def add(self, values: Tensor, reconstruction: Tensor) -> None:
        """Some tokens more."""
        values = values.double()
        self.missed += float((values - reconstruction.double()).square().sum())
        self.squares += float(values.square().sum())
        self.sums = self.sums + values.sum(0)
        self.count += len(values)

    @property
    def explained(self) -> float:
        """1 less the squared error relative to the variance about the mean."""
        variance = self.squares - float((self.sums / self.count).square().sum()) * self.count
        return 1 - self.missed / variance if variance > 0 else 0.0


def _open(layout: Layout, role: str, prefixes: Tensor) -> Tensor:
    """Flat positions at which a role is patched and the two runs may differ."""
    starts = prefixes[torch.tensor(layout.examples)][layout.example.clamp(min=0)]
    return torch.nonzero((layout.patched(role) & (layout.position_ids >= starts)).flatten()).flatten()


def _note_base(
    model: LanguageModel,
    layouts: Sequence[Layout],
    flags: Flags,
    fits: Mapping[PlacedDictionary, _Fit],
    prefixes: Tensor,
) -> None:
    """Flag the features that are active in the base run, and measure the reconstructions."""
    for layout in layouts:
        seen: dict[Any, Tensor] = {}

        def keep(place: Any) -> Any:
            def note(own: Tensor) -> Tensor:
                seen[place] = own.detach()  # noqa: B023
                return own

            return note

        forward(model, layout, [(place, keep(place)) for place in {p: None for one in fits for p in one.hosts}])
        tokens = layout.input_ids.numel()
        for (placed, role), flag in flags.items():
            at = _open(layout, role, prefixes)
            read = seen[placed.read].reshape(tokens, -1)
            flag[placed.entries(read[at.to(read.device)]).feature.cpu()] = True
        for placed, fit in fits.items():
            at = torch.nonzero(layout.patched("all").flatten()).flatten()
            read, written = (seen[place].reshape(tokens, -1) for place in (placed.read, placed.write))
            at = at.to(read.device)
            if len(at):
                fit.add(written[at], placed.dictionary.reconstruct(placed.encodable(read[at])))


def _note_donors(
    model: LanguageModel,
    space: ComponentSpace,
    source: DonorSource,
    packing: Packing,
    pairs: Sequence[EncodedPair],
    layouts: Sequence[Layout],
    flags: Flags,
    prefixes: Tensor,
) -> None:
    """Flag the features that are active in the donor's run, or have a donor's value."""
    if isinstance(source, Vector):
        for name in map(Component.parse, source.values):
            for (placed, _), flag in flags.items():
                mine = (name.site, name.layer) == (placed.feature_site, placed.layer)
                if mine and (name.unit or 0) < len(flag):
                    flag[name.unit or 0] = True
        return
    places = tuple(dict.fromkeys(placed.features for placed, _ in flags))
    for draw in source.each_draw() if isinstance(source, Noise) else [source]:
        donors = donors_of(draw, Setting(model, space, places, packing), pairs)
        assert isinstance(donors, JointDonors), "a setting with dictionaries has their features"
        for layout in layouts:
            for (placed, role), flag in flags.items():
                given = donors.features[placed].at(layout, _open(layout, role, prefixes)).entries
                if given is not None:
                    flag[given.feature.cpu()] = True
