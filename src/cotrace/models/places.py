"""Places: where each site lives in a given model. A place is a module, which of its tensors, and how that splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from cotrace.components import Site

if TYPE_CHECKING:
    from cotrace.dictionaries.placed import PlacedDictionary

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
    """What the layer multiplies the tensor with before it adds it to the residual stream; values at the place are
    multiplied already: they are what is added."""
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
