"""Places: where the tensors of a model are, its layers', and those of dictionaries that are put there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cotrace.components import PARTS_OF, Site
from cotrace.dictionaries.dictionary import Dictionary, Entries

Tap = Literal["input", "output", "attention", "pattern", "experts"]


@dataclass(frozen=True)
class Place:
    """One tensor in the network: ``[row, pos, units * width]``, or ``[row, unit, query, key]`` for a pattern.

    Rows and positions may be one axis, ``[row * pos, units * width]``."""

    site: Site
    layer: int
    module: nn.Module
    tap: Tap
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
