"""Changes: what an edit does at each place, alike at every position: own * keep + add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import EncodedPair, Packing
from cotrace.components import Component, ComponentSpace, Site
from cotrace.dictionaries.placed import PlacedDictionary
from cotrace.donors import DonorSource, Mean, Scale, Setting, donors_of
from cotrace.donors.features import JointDonors
from cotrace.donors.store import ConstantDonors, ScaledDonors
from cotrace.editing.donors import stand_alone
from cotrace.errors import InputError, UnsupportedSite
from cotrace.interventions import DonorFeatures, FeaturePatch
from cotrace.interventions.feature_patch import feature_taps
from cotrace.models import LanguageModel, Place
from cotrace.models.taps import Edit, TapList
from cotrace.problem.packing import choose_packing
from cotrace.prompts import Task
from cotrace.results import Selection


@dataclass(frozen=True, eq=False)
class Change:
    """The edit of one place; features are its units side by side, ``units * width`` numbers."""

    place: Place
    keep: Float[Tensor, "feature"]
    """What the own value is multiplied with; 1 outside the selection."""
    add: Float[Tensor, "feature"] | None
    """What is added; None where nothing is."""

    def taps(self, note: Callable[[], None]) -> TapList:
        """Where the edit acts, and what it does."""
        return [(self.place, self.edit(note))]

    def edit(self, note: Callable[[], None]) -> Edit:
        """What the taps call, whatever the rows and positions are; ``note`` is called once, when it is first reached.

        Both vectors are brought to the value's device, type and shape once: this runs for every generated token.
        """
        keep, add = self.keep, self.add
        shape: torch.Size | None = None

        def apply(own: Tensor) -> Tensor:
            nonlocal keep, add, shape
            if shape is None or keep.dtype != own.dtype or keep.device != own.device:
                note()
                shape = own.shape[-1 if own.shape[-1] == len(self.keep) else -2 :]  # heads: [row, pos, head, d_head]
                keep = self.keep.to(own).reshape(shape)
                add = None if self.add is None else self.add.to(own).reshape(shape)
            return own * keep if add is None else torch.addcmul(add, own, keep)

        return apply


@dataclass(frozen=True, eq=False)
class FeatureChange:
    """The edit of one dictionary: which of its features, and whether its error, take the donor's value."""

    place: Place
    chosen: Mapping[Place, Float[Tensor, "unit"]]
    """The features' place, the error's or both, with 1 for the units that are chosen."""
    donor: DonorFeatures

    def taps(self, note: Callable[[], None]) -> TapList:
        """Where the edit acts, and what it does; ``note`` is called when it is reached."""
        device = self.place.dictionary.dictionary.decoder.device
        parts = [(FeaturePatch(place, self.donor), units[None].to(device)) for place, units in self.chosen.items()]
        *before, (place, edit) = feature_taps(parts)

        def noted(own: Tensor) -> Tensor:
            note()
            changed: Tensor = edit(own)
            return changed

        return [*before, (place, noted)]


def changes(
    model: LanguageModel, selection: Selection, donor: str | DonorSource, reference: Task | None = None
) -> tuple[Change | FeatureChange, ...]:
    """What a selection's edit does, one change for each place, layer by layer. Raises CotraceError."""
    source = stand_alone(donor, model, reference)
    places = places_of(model, selection)
    plain, features = _values(model, selection, source, places)
    made: dict[Any, Change | FeatureChange] = {}
    for place, units in places.items():
        if place.dictionary is None:
            made[place] = _change(place, units, source, plain.get(place))
        elif place.dictionary not in made:
            mine = {one: _chosen(one, units) for one, units in places.items() if one.dictionary is place.dictionary}
            made[place.dictionary] = FeatureChange(place, mine, features[place.dictionary])
    return tuple(made.values())


def _chosen(place: Place, units: Sequence[int]) -> Float[Tensor, "unit"]:
    found = place.dictionary.dictionary.decoder.new_zeros(place.units)
    found[list(units)] = 1
    return found


def places_of(model: LanguageModel, selection: Selection) -> dict[Place, list[int]]:
    """Where the chosen components live, with the units chosen there. Raises InputError, UnsupportedSite."""
    if not selection.members:
        raise InputError("the selection is empty: there is nothing to edit")
    found: dict[tuple[int, Site], list[int]] = {}
    for member in sorted(selection.members, key=lambda m: (m.layer, list(Site).index(m.site), m.unit or 0)):
        _check_member(model, member)
        found.setdefault((member.layer, member.site), []).append(member.unit or 0)
    return {model.places(site)[layer]: units for (layer, site), units in found.items()}


def _check_member(model: LanguageModel, member: Component) -> None:
    if member.role != "all":
        raise InputError(
            f"{member} acts at the position role {member.role!r} only, and generated text has no such position: an "
            "edit takes components of all positions; search again without roles"
        )
    if member.site is Site.ATTENTION_PATTERN:
        raise UnsupportedSite(
            f"{member}: an attention pattern takes only rows that sum to 1, which no donor that stands alone gives; "
            "search the site head_output"
        )
    place = model.places(member.site).get(member.layer)
    if place is None or (member.unit or 0) >= place.units:
        raise InputError(
            f"{model.name} has no {member}; it has {model.space((member.site,)).outline}: the selection comes from "
            "another architecture or size"
        )


def _values(
    model: LanguageModel, selection: Selection, source: DonorSource, places: Iterable[Place]
) -> tuple[Mapping[Place, Tensor], Mapping[PlacedDictionary, DonorFeatures]]:
    """The donor's values, one vector for each plain place (none for ``scale``), and what each dictionary takes."""
    pairs: Sequence[EncodedPair] = (source.reference or ()) if isinstance(source, Mean) else ()
    packing = choose_packing(model, pairs, None) if pairs else Packing(packed=False, batch_tokens=1)
    found = donors_of(source, Setting(model, ComponentSpace(selection.members), tuple(places), packing), pairs)
    features: dict[PlacedDictionary, DonorFeatures] = {}
    if isinstance(found, JointDonors):
        features = {one: values.everywhere for one, values in found.features.items()}
        found = found.plain or ScaledDonors(1.0)
    assert isinstance(found, ConstantDonors | ScaledDonors), "donors that stand alone have one value for all positions"
    return found.values if isinstance(found, ConstantDonors) else {}, features


def _change(place: Place, units: Sequence[int], source: DonorSource, value: Tensor | None) -> Change:
    chosen = torch.zeros(place.units, place.width, dtype=torch.bool)
    chosen[list(units)] = True
    flat = chosen.flatten()
    keep = torch.ones(len(flat), dtype=torch.float64)
    keep[flat] = source.factor if isinstance(source, Scale) else 0.0
    if value is None or not bool(value.any()):
        return Change(place, keep, None)
    return Change(place, keep, torch.where(flat, value.detach().cpu().double(), 0.0))
