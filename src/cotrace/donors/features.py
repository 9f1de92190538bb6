"""Donor values of features and errors: those of the places that a dictionary reads and writes, encoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cotrace.batches import EncodedPair, Layout
from cotrace.components import ERROR_SITES, FEATURE_SITES, OF_DICTIONARIES, Component, ComponentSpace
from cotrace.dictionaries.dictionary import Entries
from cotrace.donors.recorded import Donors, RecordedDonors, Spot
from cotrace.donors.sources import DonorSource, Mean, Scale, Setting, Vector, Zero, vector_of
from cotrace.errors import InputError
from cotrace.interventions import Patch
from cotrace.interventions.blend import DonorFeatures, FeaturePatch
from cotrace.interventions.storage import Keep
from cotrace.models import Place
from cotrace.models.places import PlacedDictionary


@dataclass(frozen=True, eq=False)
class FeatureValues:
    """A donor's features at one dictionary, in rows: of donor tokens, of positions, or one for every token."""

    rows: str
    """``source``, ``position`` or ``all``: which row a token takes."""
    entries: Entries | None
    """None where values are the own times a factor."""
    whole: Float[Tensor, "row d_out"] | None
    factor: float | None = None

    @property
    def nbytes(self) -> int:
        """Memory that they take, in bytes."""
        whole = 0 if self.whole is None else self.whole.numel() * self.whole.element_size()
        return whole + (0 if self.entries is None else self.entries.nbytes)

    @property
    def everywhere(self) -> DonorFeatures:
        """Return the value for every token of any pass, where all take the same."""
        return DonorFeatures(None, self.entries, self.whole, self.factor)

    def of_tokens(self, tokens: Int[Tensor, "token"]) -> FeatureValues:
        """Return the values of some donor tokens, in their order; values that do not go by donor tokens stay."""
        if self.rows != "source":
            return self
        entries = None if self.entries is None else self.entries.rows(tokens)
        return FeatureValues(
            "source", entries, None if self.whole is None else self.whole[tokens.to(self.whole.device)]
        )

    def to(self, device: torch.device) -> FeatureValues:
        """The same on another device."""
        entries = None if self.entries is None else self.entries.to(device)
        return FeatureValues(self.rows, entries, None if self.whole is None else self.whole.to(device), self.factor)

    def at(self, layout: Layout, tokens: Int[Tensor, "token"]) -> DonorFeatures:
        """Return the values for these tokens of a layout."""
        if self.entries is None or self.rows == "all":
            return DonorFeatures(tokens, self.entries, self.whole, self.factor)
        row = (layout.source if self.rows == "source" else layout.position_ids).flatten()[tokens]
        whole = None if self.whole is None else self.whole[row.to(self.whole.device)]
        return DonorFeatures(tokens, self.entries.rows(row), whole)


@dataclass(frozen=True, eq=False)
class JointDonors:
    """Donor values of plain sites and of dictionaries, side by side."""

    plain: Donors | None
    features: Mapping[PlacedDictionary, FeatureValues]

    @property
    def nbytes(self) -> int:
        return (self.plain.nbytes if self.plain else 0) + sum(values.nbytes for values in self.features.values())

    def patches(self, layout: Layout, spots: Sequence[Spot]) -> dict[Spot, Patch]:
        plain = [spot for spot in spots if spot[0].dictionary is None]
        found = self.plain.patches(layout, plain) if self.plain and plain else {}
        for placed, values in self.features.items():
            mine = [spot for spot in spots if spot[0].dictionary is placed]
            roles = {role: layout.patched(role).flatten() for _, role in mine}
            if not roles:
                continue
            tokens = torch.nonzero(torch.stack(list(roles.values())).any(0)).flatten()
            donor = values.at(layout, tokens)
            found |= {(place, role): FeaturePatch(place, donor, _share(roles[role][tokens])) for place, role in mine}
        return found


def _share(flags: Bool[Tensor, "token"]) -> Bool[Tensor, "token"] | None:
    return None if bool(flags.all()) else flags


def donors_of(source: DonorSource, setting: Setting, pairs: Sequence[EncodedPair]) -> Donors:
    """The donor values of these pairs, computed now: of plain places as the source gives them, of features encoded.

    Raises InputError for a source of the user's own that records no run.

    Args:
        source: The donor source.
        setting: Model, space and places.
        pairs: The pairs, as tokens.
    """
    plain = tuple(place for place in setting.places if place.dictionary is None)
    held: list[PlacedDictionary] = list(dict.fromkeys(p.dictionary for p in setting.places if p.dictionary is not None))
    if not held:
        return source.donors(setting, pairs)
    hosts = [place for one in held for place in one.hosts]
    setting = replace(setting, errors=frozenset(p.dictionary for p in setting.places if p.site in ERROR_SITES))
    if isinstance(source, Zero | Scale | Vector | Mean):
        own = _on_plain(setting, plain)
        values = source.donors(own, pairs) if plain else None
        run = source.recorded(replace(setting, places=tuple(hosts)), pairs) if isinstance(source, Mean) else None
        return JointDonors(values, {one: _alone(source, one, setting, run) for one in held})
    found = source.donors(replace(setting, places=tuple(dict.fromkeys((*plain, *hosts)))), pairs)
    if not isinstance(found, RecordedDonors):
        raise InputError(
            f"donors={source.name!r} gives no values of a run, which features are encoded from; use counterfactual, "
            "noise, resample, mean, zero, scale or vector"
        )
    encoded = {one: _encoded(found, one, setting) for one in held}
    return JointDonors(replace(found, values={p: v for p, v in found.values.items() if p in plain}), encoded)


def _on_plain(setting: Setting, plain: tuple[Place, ...]) -> Setting:
    """The same of the plain places only."""
    components = tuple(component for component in setting.space if component.site not in OF_DICTIONARIES)
    return replace(setting, places=plain, space=ComponentSpace(components)) if components else setting


def _encoded(run: RecordedDonors, placed: PlacedDictionary, setting: Setting) -> FeatureValues:
    """The features of a recorded run, token by token, in the room that the setting gives."""
    whole = run.values[placed.write] if placed in setting.errors else None
    return FeatureValues("source", _kept(placed.entries(run.values[placed.read]), setting.keep), whole)


def _kept(entries: Entries, keep: Keep) -> Entries:
    """The entries in the room that ``keep`` gives; whole numbers of 8 bytes stand in the room of such floats."""
    count = len(entries.token)
    value = keep(entries.value, (count,)).copy_(entries.value)
    numbers = keep(entries.value.new_empty(0, dtype=torch.float64), (2 * count,)).view(torch.int64)
    numbers[:count], numbers[count:] = entries.token, entries.feature
    return Entries(numbers[:count], numbers[count:], value, entries.tokens)


def _alone(
    source: Zero | Scale | Vector | Mean, placed: PlacedDictionary, setting: Setting, run: RecordedDonors | None
) -> FeatureValues:
    """Return the values of a source that stands alone: one row for every token, or one for each position."""
    if isinstance(source, Scale):
        return FeatureValues("all", None, None, float(source.factor))
    if isinstance(source, Mean):
        assert run is not None, "a mean is taken over a run"
        return _mean(run, placed, source.per_position, placed in setting.errors)
    if isinstance(source, Vector):
        return _vector_values(source, placed, setting)
    decoder = placed.dictionary.decoder
    return FeatureValues(
        "all", _row(decoder.new_zeros(1, placed.dictionary.size)), decoder.new_zeros(1, decoder.shape[1])
    )


def _row(values: Float[Tensor, "row feature"]) -> Entries:
    """The entries of dense rows."""
    row, feature = torch.nonzero(values, as_tuple=True)
    return Entries(row, feature, values[row, feature], len(values))


def _mean(run: RecordedDonors, placed: PlacedDictionary, per_position: bool, error: bool) -> FeatureValues:
    """The mean activation of each feature, and the mean value of the place."""
    found = placed.entries(run.values[placed.read])
    written = run.values[placed.write]
    position = run.positions if per_position else torch.zeros(found.tokens, dtype=torch.long)
    position = position.to(found.token.device)
    count = torch.bincount(position)[:, None]
    total = found.value.new_zeros(len(count), placed.dictionary.size)
    total.index_put_((position[found.token], found.feature), found.value, accumulate=True)
    whole = None
    if error:
        sums = written.new_zeros(len(count), written.shape[1]).index_add(0, position.to(written.device), written)
        whole = sums / count.to(sums)
    return FeatureValues("position" if per_position else "all", _row(total / count.to(total)), whole)


def _vector_values(source: Vector, placed: PlacedDictionary, setting: Setting) -> FeatureValues:
    """The user's activations; the error's tensor is what the place has beside them."""
    given = {Component.parse(name): value for name, value in source.values.items()}
    decoder = placed.dictionary.decoder
    activations, error = decoder.new_zeros(1, placed.dictionary.size), decoder.new_zeros(1, decoder.shape[1])
    for component in setting.space:
        if component.layer != placed.layer or component.site not in (placed.feature_site, placed.error_site):
            continue
        width = 1 if component.site in FEATURE_SITES else decoder.shape[1]
        value = vector_of(given, component, width).to(decoder)
        if component.site in FEATURE_SITES:
            activations[0, component.unit] = value
        else:
            error[0] = value
    return FeatureValues("all", _row(activations), error + activations @ decoder)
