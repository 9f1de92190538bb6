"""``ct.apply``: a selection under a donor, in force while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from cotrace.batches import EncodedPair, Packing, encode_task
from cotrace.components import Component, ComponentSpace, Site
from cotrace.donors import DonorSource, Mean, Scale, Setting, Vector, Zero, donor_source, donors_of
from cotrace.donors.features import JointDonors
from cotrace.donors.recorded import ConstantDonors, ScaledDonors
from cotrace.errors import InputError, UnsupportedSite
from cotrace.interventions import DonorFeatures, FeaturePatch
from cotrace.interventions.blend import feature_edits
from cotrace.models import LanguageModel, Place, hooked
from cotrace.models.hooks import Edit, Edits
from cotrace.models.places import PlacedDictionary
from cotrace.problem.passes import choose_packing
from cotrace.prompts import Task
from cotrace.results import AnySet, Selection, selection_of
from cotrace.validation import checked

LOWEST_FACTOR, HIGHEST_FACTOR = -1.0, 2.0
"""Range of ``scale``: -1 turns a component round, 0 takes it out, 1 leaves it, 2 doubles it."""
NO_VALUE: Mapping[str, str] = {
    "counterfactual": "its values are those of a paired prompt, and a generated position has no pair",
    "resample": "its values are those of another pair's prompt, and a generated position has none",
    "noise": "its values are those of a prompt with noise on its embeddings, and a generated position has none",
}
ALTERNATIVE = "use zero, scale=0.2, mean=task or a vector"


def stand_alone(donor: str | DonorSource, model: LanguageModel, reference: Task | None = None) -> DonorSource:
    """The donor source, checked to have a value at generated positions. Raises InputError with the reason.

    ``vector=FILE.safetensors`` reads a tensor for each component by its name; ``mean=task`` is taken over all tokens of
    the base prompts of ``reference``.
    """
    source = checked_donor(donor)
    return _with_reference(source, model, reference) if isinstance(source, Mean) else source


def checked_donor(donor: str | DonorSource) -> DonorSource:
    """The donor source, checked as far as can be without a model. Raises InputError."""
    source = donor_source(donor)
    if source.name in NO_VALUE:
        raise InputError(f"donors={source.name!r} does not stand alone: {NO_VALUE[source.name]}; {ALTERNATIVE}")
    if isinstance(source, Scale):
        return Scale(checked_factor(source.factor))
    if isinstance(source, Mean) and source.per_position:
        raise InputError(
            "donors='mean=position' does not stand alone: it has a value for each prompt position and none behind the "
            "prompt; use donors='mean=task', one value for all positions"
        )
    if not isinstance(source, Mean | Zero | Vector):
        raise InputError(f"donors={source.name!r} is not known to stand alone; {ALTERNATIVE}")
    return source


def checked_factor(factor: float | int) -> float:
    """A factor of ``scale`` within its range. Raises InputError."""
    if not LOWEST_FACTOR <= factor <= HIGHEST_FACTOR:  # not a number fails too
        raise InputError(
            f"the factor {factor:g} is outside {LOWEST_FACTOR:g} .. {HIGHEST_FACTOR:g}: 0 takes a component out, 1 "
            "leaves it, -1 turns it round"
        )
    return float(factor)


def _with_reference(source: Mean, model: LanguageModel, reference: Task | None) -> Mean:
    if source.reference is not None:
        return source
    if reference is None:
        raise InputError("donors='mean=task' needs a reference set: give reference=TASK, whose base prompts are run")
    return replace(source, reference=reference_pairs(model, reference))


def reference_pairs(model: LanguageModel, task: Task) -> tuple[EncodedPair, ...]:
    """The task's base prompts, tokenised: what a problem with ``mean=task`` averages over as well."""
    return encode_task(
        task, model.require_tokenizer(), paired=False, align="exact", most_tokens=model.most_tokens
    ).pairs


def described(donor: str | DonorSource) -> str:
    """The donor as it is written on the command line."""
    if isinstance(donor, str):
        return donor
    if isinstance(donor, Scale):
        return f"scale={donor.factor:g}"
    return "mean=task" if isinstance(donor, Mean) else donor.name


@dataclass(frozen=True, eq=False)
class Change:
    """The edit of one place; features are its units side by side, ``units * width`` numbers."""

    place: Place
    keep: Float[Tensor, "feature"]
    """Factor of the own value; 1 outside the selection."""
    add: Float[Tensor, "feature"] | None
    """Addend; None where there is none."""

    def edits(self, note: Callable[[], None]) -> Edits:
        """Where the edit acts, and what it does."""
        return [(self.place, self.edit(note))]

    def edit(self, note: Callable[[], None]) -> Edit:
        """Return the function that hooks call, whatever the rows and positions are; ``note`` is called once, when it is
        first reached.

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

    def edits(self, note: Callable[[], None]) -> Edits:
        """Where the edit acts, and what it does; ``note`` is called when it is reached."""
        device = self.place.dictionary.dictionary.decoder.device
        parts = [(FeaturePatch(place, self.donor), units[None].to(device)) for place, units in self.chosen.items()]
        *before, (place, edit) = feature_edits(parts)

        def noted(own: Tensor) -> Tensor:
            note()
            changed: Tensor = edit(own)
            return changed

        return [*before, (place, noted)]


def changes(
    model: LanguageModel, selection: Selection, donor: str | DonorSource, reference: Task | None = None
) -> tuple[Change | FeatureChange, ...]:
    """Return a selection's edit as one change for each place, layer by layer. Raises CotraceError."""
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


class _NothingRan(Exception):
    """Error: no forward pass ran inside, so nothing could have been missed."""


@checked("ct.apply")
@contextmanager
def apply(
    model: LanguageModel,
    selection: AnySet,
    donor: str | DonorSource = "zero",
    *,
    reference: Task | None = None,
    space: ComponentSpace | None = None,
) -> Iterator[PreTrainedModel]:
    """The Hugging Face model with the selection's components under the donor, for every forward inside.

    ``selection``: a Selection, component names, or a mask of 0 and 1 [n] with the ``space`` that it is of. The model
    runs, scores and generates, with and without a cache; every position takes the donor, padding too, which nothing
    attends to. Hooks and attention are restored afterwards. ``reference`` is the task that ``mean=task`` is taken
    over. Raises InputError for a donor without a value at generated positions, UnsupportedSite, and RuntimeError where
    the model ran and a place was never reached.
    """
    chosen = selection_of("ct.apply", selection, space)
    with changed(model, changes(model, chosen, donor, reference)):
        yield model.module


@contextmanager
def changed(model: LanguageModel, edits: Sequence[Change | FeatureChange]) -> Iterator[None]:
    """The model under these changes."""
    reached: list[bool] = []
    made = [one for change in edits for one in change.edits(lambda: reached.append(True))]
    try:
        with hooked(model.module, made):
            yield
            if not reached:
                raise _NothingRan
    except _NothingRan:
        pass
