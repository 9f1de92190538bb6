"""Places: where the tensors of a model are, its layers', and those of dictionaries; and which components names mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from cotrace.components import (
    OF_DICTIONARIES,
    PARTS_OF,
    WAYS,
    Component,
    ComponentSpace,
    Entry,
    Layers,
    Site,
    layers_of,
)
from cotrace.dictionaries.dictionary import Dictionary, Entries
from cotrace.errors import InputError
from cotrace.results import Frontier, Selection
from cotrace.text.files import shortened

Side = Literal["input", "output", "attention", "pattern", "experts"]


@dataclass(frozen=True)
class OneHead:
    """One head among those of its layer."""

    unit: int
    width: int
    heads: int
    """How many heads the layer has."""

    @property
    def where(self) -> slice:
        """Its numbers among those of all heads side by side."""
        return slice(self.unit * self.width, (self.unit + 1) * self.width)

    def padded(self, values: Float[Tensor, "*token d_head"]) -> Float[Tensor, "*token d"]:
        """Return the values with zeros for all other heads."""
        return pad(values, (self.where.start, self.heads * self.width - self.where.stop))


@dataclass(frozen=True)
class Place:
    """One tensor in the network: ``[row, pos, units * width]``, or ``[row, unit, query, key]`` for a pattern.

    Rows and positions may be one axis, ``[row * pos, units * width]``."""

    site: Site
    layer: int
    module: nn.Module
    side: Side
    """``input``: the module's first argument. ``output``: what it returns. ``attention``: what the attention function
    returns, before any gate or projection. ``pattern``: the attention weights. ``experts``: what each expert
    adds to the module's output."""
    units: int
    """Number of components at the place."""
    width: int
    """Numbers per component and position."""
    factor: float = 1.0
    """Factor by which the layer multiplies the tensor before adding it to the residual stream; values at the place are
    multiplied already: they are what is added.
    """
    dictionary: PlacedDictionary | Any = None
    """The dictionary whose features, or whose error, are the components; None where values are taken as they are."""
    head: OneHead | None = None
    """The head whose numbers alone are the tensor, of a place of heads; None for all."""

    def __str__(self) -> str:
        return f"L{self.layer} {self.site}"


@dataclass(frozen=True)
class Layer:
    """One decoder layer: where the sites that it has live, and why it lacks others."""

    index: int
    module: nn.Module
    attention: nn.Module | None
    """The module that attends; None in layers without attention, such as state-space layers."""
    places: Mapping[Site, Place]
    missing: Mapping[Site, str] = field(default_factory=dict)
    """Site that the layer might be thought to have -> why it is not traced."""
    added: Mapping[Site, float] = field(default_factory=dict)
    """Site that is added to the residual stream -> by how much the stream behind the layer misses being the one before
    it plus the parts, relative to it."""
    projection: nn.Module | None = None
    """The matrix that takes the heads' outputs; None where there is none that takes nothing else."""

    def place(self, site: Site) -> Place | None:
        """Where the site lives in this layer; None where the layer has no such site."""
        return self.places.get(site)

    @property
    def heads(self) -> int:
        """Query heads; 0 where the layer's heads cannot be told apart."""
        place = self.places.get(Site.HEAD_OUTPUT)
        return place.units if place else 0

    @property
    def d_head(self) -> int:
        """Numbers in one head's output."""
        place = self.places.get(Site.HEAD_OUTPUT)
        return place.width if place else 0


@dataclass(frozen=True, eq=False)
class Unscaled:
    """A norm's weight and bias, taken out of its output: what is between norm and weight is read."""

    gain: Float[Tensor, "d"]
    bias: Float[Tensor, "d"]

    def __call__(self, values: Float[Tensor, "*token d"]) -> Float[Tensor, "*token d"]:
        return (values - self.bias.to(values)) / self.gain.to(values)


@dataclass(frozen=True, eq=False)
class PlacedDictionary:
    """A dictionary at its place in a model. Of its features those of ``active`` are told apart; what they do not
    carry is the error."""

    dictionary: Dictionary
    layer: int
    read: Place
    write: Place
    unscaled: Unscaled | None = None
    """Function applied to the value that is read, before it is encoded."""
    active: Int[Tensor, "some"] | None = None
    """Features that are told apart, ascending; None for all. The others go with the error."""
    alone: bool = True
    """Whether it is the only one of its layer: then its components are named without the site."""

    @cached_property
    def features(self) -> Place:
        """The place whose components are the features."""
        write = self.write
        return replace(write, site=self.feature_site, units=self.dictionary.size, width=1, dictionary=self)

    @cached_property
    def error(self) -> Place:
        """The place whose one component is the error."""
        width = self.write.units * self.write.width
        return replace(self.write, site=self.error_site, units=1, width=width, dictionary=self)

    @property
    def site(self) -> Site:
        """The site that it writes."""
        return self.write.site

    @property
    def feature_site(self) -> Site:
        """The site of its features."""
        return Site.FEATURE if self.alone else PARTS_OF[self.site][0]

    @property
    def error_site(self) -> Site:
        """The site of its error."""
        return Site.ERROR if self.alone else PARTS_OF[self.site][1]

    @property
    def is_transcoder(self) -> bool:
        """Whether it reads elsewhere than it writes."""
        return self.read != self.write

    @property
    def hosts(self) -> tuple[Place, ...]:
        """The places whose values it needs, each once."""
        return tuple(dict.fromkeys((self.read, self.write)))

    @property
    def about(self) -> dict[str, str | int | None]:
        """Identity of the dictionary as plain data: where it is, its size, and the hash of its weight file."""
        one = self.dictionary
        named = {"name": one.name, "architecture": one.architecture, "hook": one.hook, "hook_out": one.hook_out}
        return named | {"layer": self.layer, "features": one.size, "sha256": one.sha256, "neuronpedia": one.neuronpedia}

    def entries(self, values: Float[Tensor, "token d_in"], features: Int[Tensor, "some"] | None = None) -> Entries:
        """Return the contribution of the features told apart to the value, in units of the decoder's rows, from values
        as they are read.

        Differentiable in the values; only of some ``features`` where asked.
        """
        dictionary = self.dictionary
        values = self.encodable(values)
        asked = self.active if features is None else features
        found = dictionary.encode(values, asked)
        if dictionary.k is not None and asked is not None:
            wanted = torch.zeros(dictionary.size, dtype=torch.bool, device=asked.device)
            wanted[asked] = True
            found = found.where(wanted)
        if dictionary.norm == "none" or dictionary.is_transcoder:
            return found
        return found.weighted(dictionary.size_of(values)[:, 0][found.token])

    def encodable(self, values: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """Values of the place that is read, as the dictionary takes them."""
        values = values.to(self.dictionary.encoder)
        return values if self.unscaled is None else self.unscaled(values)

    def telling(self, active: Int[Tensor, "some"]) -> PlacedDictionary:
        """Return the same with only these features as components."""
        return replace(self, active=active.to(self.dictionary.bias.device))


# Which components of a model are meant by sites, names, patterns, roles and layers. A model here is anything with the
# name, layers, sites, ``places`` and ``meant`` of a LanguageModel.


def entries_of(sites: Any) -> list[Entry]:
    """Return the entries of sites, names and components, each once. Raises InputError, UnknownName."""
    given = [sites] if isinstance(sites, str) else list(sites)
    strange = next((one for one in given if not isinstance(one, str | Site | Component)), None)
    if strange is not None:
        raise InputError(f"sites: {shortened(strange)} is neither a site nor a component; give {WAYS}")
    texts = [one.value if isinstance(one, Site) else str(one) for one in given]
    double = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    if double is not None:
        raise InputError(f"{double} stands twice in the component space: name each site and component once")
    return [entry for one in given for entry in Entry.parse(one)]


def shortlist(result: Frontier | Selection) -> tuple[Component, ...]:
    """The components of a set, or of all sets of a frontier. Raises InputError where that narrows nothing."""
    if isinstance(result, Selection):
        return result.members
    members = {member for selection in result for member in selection.members}
    if len(members) == len(result.space):
        raise InputError(
            f"sites: the sets of this {result.search} frontier hold all {len(members)} components between them; give "
            f"one of them as the shortlist, as in sites=frontier.at({max(1, len(members) // 4)})"
        )
    return tuple(member for member in result.space if member in members)


def named_space(model: Any, sites: Any, roles: Sequence[str], layers: Layers = None) -> ComponentSpace:
    """Return the components that are named or in the shortlist, or all of the sites, for each role and in these layers.

    Sites in the order in which they are first named, layer by layer. Raises InputError, UnsupportedSite, UnknownName;
    InputError too where no component is left, or the model lacks a layer.
    """
    chosen = layers_of(layers)
    if isinstance(sites, Frontier | Selection):
        sites = shortlist(sites)
    if isinstance(sites, ComponentSpace):
        whole = set(_whole(model, sites.sites))
        strange = next((component for component in sites if replace(component, role="all") not in whole), None)
        if strange is not None:
            raise InputError(f"{model.name} has no {strange}; it has {_whole(model, sites.sites).outline}")
        found = list(sites)
    else:
        found = list(_meant(model, entries_of(sites), roles, chosen))
    if chosen is not None:
        depth = len(model.layers)
        if max(chosen) >= depth:
            raise InputError(f"layers go up to {max(chosen)}, and {model.name} has layers 0 to {depth - 1}")
        found = [component for component in found if component.layer in chosen]
        if not found:
            raise InputError("none of the sites is in these layers: name other layers, or other sites")
    return ComponentSpace(tuple(found))


def _whole(model: Any, sites: Sequence[Site]) -> ComponentSpace:
    return ComponentSpace(tuple(_meant(model, entries_of(sites), ("all",), None)))


def _meant(
    model: Any, entries: Sequence[Entry], roles: Sequence[str], layers: frozenset[int] | None
) -> Iterator[Component]:
    """All components of each site that some entry means."""
    by_site: dict[Site, list[Entry]] = {}
    for entry in entries:
        for site, own in _sited(model, entry):
            by_site.setdefault(site, []).append(own)
        if entry.single and layers is not None and entry.layer not in layers:
            raise InputError(f"{entry.text} is named and layers leave it out: leave out the one or the other")
    met: set[str] = set()
    for site, some in by_site.items():
        order = dict.fromkeys([*roles, *(entry.role for entry in some if entry.role)])
        units = {layer: place.units for layer, place in model.places(site).items()}
        for one in ComponentSpace.build({site: units}, list(order)):
            if meant := [entry.text for entry in some if entry.at(one, roles)]:
                met.update(meant)
                yield one
    if missed := next((entry for entry in entries if entry.text not in met), None):
        there = [one for site in missed.sites for one in model.meant(site) if one in (*model.sites, *OF_DICTIONARIES)]
        raise InputError(f"{model.name} has no {missed.text}; it has {_whole(model, there or model.sites).outline}")


def _sited(model: Any, entry: Entry) -> Iterator[tuple[Site, Entry]]:
    """The entry's site; of several the first that each layer has. Raises UnsupportedSite, InputError."""
    if not entry.every:
        for meant in model.meant(entry.sites[0]) if entry.layer is None else entry.sites:
            model.places(meant)
            yield meant, entry
        return
    places: Mapping[Site, Mapping[int, Any]] = {s: model.places(s) if s in model.sites else {} for s in entry.sites}
    depth = len(model.layers)
    if entry.layer is not None and entry.layer >= depth:
        raise InputError(f"{model.name} has no {entry.text}; it has layers 0 to {depth - 1}")
    for layer in range(depth) if entry.layer is None else [entry.layer]:
        site = next((site for site in entry.sites if layer in places[site]), None)
        if site is not None:
            yield site, replace(entry, layer=layer)
