"""Sites, components and component spaces: the words for the parts of a model, and how people name them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from cotrace.errors import InputError, unknown
from cotrace.text.files import shortened
from cotrace.validation import check_kind, guarded, names_of

if TYPE_CHECKING:
    import numpy as np

Mode = Literal["swap", "keep"]
"""``swap``: the chosen components take the donor's value; ``keep``: all others do."""
Direction = Literal["maximise", "minimise"]
"""Whether larger or smaller effects are preferred."""


def sign_of(direction: str) -> int:
    """+1 where larger effects are preferred, -1 where smaller ones are: effect times sign is to be made large."""
    return 1 if direction == "maximise" else -1


@guarded("ct.Site", fields=False)
class Site(StrEnum):
    """A kind of place in the network."""

    ATTENTION_PATTERN = "attention_pattern"
    HEAD_OUTPUT = "head_output"
    KV_GROUP = "kv_group"
    ATTENTION_OUTPUT = "attention_output"
    MLP_OUTPUT = "mlp_output"
    MLP_NEURON = "mlp_neuron"
    MLP_COORDINATE = "mlp_coordinate"
    EXPERT = "expert"
    RESIDUAL = "residual"
    FEATURE = "feature"
    ERROR = "error"
    ATTENTION_FEATURE = "attention_feature"
    ATTENTION_ERROR = "attention_error"
    MLP_FEATURE = "mlp_feature"
    MLP_ERROR = "mlp_error"
    RESIDUAL_FEATURE = "residual_feature"
    RESIDUAL_ERROR = "residual_error"
    HEAD_FEATURE = "head_feature"
    HEAD_ERROR = "head_error"
    NEURON_FEATURE = "neuron_feature"
    NEURON_ERROR = "neuron_error"

    @classmethod
    def named(cls, name: str | Site) -> Site:
        """The site of that name. Raises UnknownName with the list."""
        return cls(name)

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise unknown("site", value, [site.value for site in cls])

    @property
    def tag(self) -> str:
        """The word that stands for the site in a component's name."""
        return TAGS[self]

    @property
    def has_units(self) -> bool:
        """Whether a layer holds several components of this site (heads, neurons) or is one component itself."""
        return self not in WHOLE_LAYER


_OWN_TAGS = {
    Site.ATTENTION_PATTERN: "pattern",
    Site.HEAD_OUTPUT: "head",
    Site.KV_GROUP: "kv",
    Site.ATTENTION_OUTPUT: "attn",
    Site.MLP_OUTPUT: "mlp",
    Site.MLP_NEURON: "neuron",
    Site.MLP_COORDINATE: "coord",
    Site.EXPERT: "expert",
    Site.RESIDUAL: "resid",
    Site.FEATURE: "feature",
    Site.ERROR: "error",
}
PARTS_OF: Mapping[Site, tuple[Site, Site]] = {
    Site.ATTENTION_OUTPUT: (Site.ATTENTION_FEATURE, Site.ATTENTION_ERROR),
    Site.MLP_OUTPUT: (Site.MLP_FEATURE, Site.MLP_ERROR),
    Site.RESIDUAL: (Site.RESIDUAL_FEATURE, Site.RESIDUAL_ERROR),
    Site.HEAD_OUTPUT: (Site.HEAD_FEATURE, Site.HEAD_ERROR),
    Site.MLP_NEURON: (Site.NEURON_FEATURE, Site.NEURON_ERROR),
}
"""Site -> features and error of a dictionary of it, in a layer that has several dictionaries: ``L5.mlp.feature12``.

In a layer with one dictionary they are ``feature`` and ``error``.
"""
TAGS: Mapping[Site, str] = _OWN_TAGS | {
    part: f"{_OWN_TAGS[site]}.{_OWN_TAGS[kind]}"
    for site, parts in PARTS_OF.items()
    for part, kind in zip(parts, (Site.FEATURE, Site.ERROR), strict=True)
}
FEATURE_SITES = frozenset({Site.FEATURE, *(feature for feature, _ in PARTS_OF.values())})
ERROR_SITES = frozenset({Site.ERROR, *(error for _, error in PARTS_OF.values())})
OF_DICTIONARIES = FEATURE_SITES | ERROR_SITES
"""Sites that a model has where a dictionary is put into it: they are parts of another site's value."""
WHOLE_LAYER = frozenset({Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT, Site.RESIDUAL}) | ERROR_SITES
SITE_OF_TAG: Mapping[str, Site] = {tag: site for site, tag in TAGS.items()}

_FULL = re.compile(
    r"L(?P<layer>\d{1,9})\.(?P<tag>[a-z]+(?:\.[a-z]+)?)(?P<unit>\d{1,9})?(?:@(?P<role>[A-Za-z_][\w-]*))?"
)
_SHORT_HEAD = re.compile(
    r"(?:a?(?P<l1>\d{1,9})\.h?(?P<h1>\d{1,9})|L(?P<l2>\d{1,9})H(?P<h2>\d{1,9}))(?:@(?P<role>[A-Za-z_][\w-]*))?"
)


@guarded("ct.Component", fields=False)
@dataclass(frozen=True, slots=True, order=True)
class Component:
    """One unit at a site and layer, optionally at a position role. Prints and parses as ``L9.head6@subject``."""

    site: Site
    layer: int
    unit: int | None = None
    """Index in the layer; None where the site is the whole layer."""
    role: str = "all"
    """Position role; ``all`` is every patched position."""

    def __post_init__(self) -> None:
        for name, value in (("layer", self.layer), ("unit", self.unit)):
            if type(value) is not int:  # there are many components: most are looked at no closer
                check_kind("ct.Component", name, value, int | None if name == "unit" else int)
        if type(self.role) is not str:
            check_kind("ct.Component", "role", self.role, str)
        if self.layer < 0 or (self.unit is not None and self.unit < 0):
            raise InputError(f"component at layer {self.layer}, unit {self.unit}: indices start at 0")
        if self.site.has_units != (self.unit is not None):
            need = "needs a unit, as in" if self.site.has_units else "is one per layer, as in"
            example = f"L{self.layer}.{self.site.tag}" + ("0" if self.site.has_units else "")
            raise InputError(f"a component of {self.site} {need} {example}")

    def __str__(self) -> str:
        unit = "" if self.unit is None else self.unit
        role = "" if self.role == "all" else f"@{self.role}"
        return f"L{self.layer}.{self.site.tag}{unit}{role}"

    @classmethod
    def parse(cls, text: str) -> Component:
        """Inverse of ``str``; ``9.6``, ``L9H6`` and ``a9.h6`` are read as ``L9.head6``. Raises InputError.

        Args:
            text: Name of a component, with ``@role`` behind it or not.
        """
        check_kind("Component.parse", "text", text, str)
        if short := _SHORT_HEAD.fullmatch(text):
            layer, head = short["l1"] or short["l2"], short["h1"] or short["h2"]
            return cls(Site.HEAD_OUTPUT, int(layer), int(head), short["role"] or "all")
        full = _FULL.fullmatch(text)
        if full is None or full["tag"] not in SITE_OF_TAG:
            raise InputError(f"{text!r} is not a component: write it as L9.head6, L9.pattern6, L3.neuron1207 or L5.mlp")
        unit = None if full["unit"] is None else int(full["unit"])
        return cls(SITE_OF_TAG[full["tag"]], int(full["layer"]), unit, full["role"] or "all")


@dataclass(frozen=True, slots=True)
class Block:
    """A run of components that share site, layer and role: one slice of the mask, one place in the network."""

    site: Site
    layer: int
    role: str
    start: int
    units: tuple[int, ...]
    """Unit indices in mask order; ``(0,)`` where the site is the whole layer."""

    @property
    def stop(self) -> int:
        return self.start + len(self.units)


@guarded("ct.ComponentSpace")
@dataclass(frozen=True)
class ComponentSpace(Sequence[Component]):
    """The ordered list of the N components that a search may choose from: sites as given, layer-major."""

    components: tuple[Component, ...]

    def __repr__(self) -> str:
        return f"ComponentSpace({len(self.components)}: {self.outline})"

    def __post_init__(self) -> None:
        if not self.components:
            raise InputError("the component space is empty: name at least one site that the model has")
        if len(self._index) != len(self.components):
            double = next(c for i, c in enumerate(self.components) if self._index[c] != i)
            raise InputError(f"{double} stands twice in the component space: name each site and component once")

    @classmethod
    def build(cls, units: Mapping[Site, Mapping[int, int]], roles: Sequence[str] = ("all",)) -> ComponentSpace:
        """Space over whole layers: for each site, in order, the number of units in each layer (1 for a whole layer).

        Args:
            units: Site -> layer -> number of units there.
            roles: Position roles; each component comes once for each role.
        """
        return cls(
            tuple(
                Component(site, layer, unit if site.has_units else None, role)
                for site, layers in units.items()
                for layer, count in layers.items()
                for role in roles
                for unit in range(count)
            )
        )

    @classmethod
    def parse(cls, names: Iterable[str]) -> ComponentSpace:
        """Space of the components of these names, in the order given."""
        return cls(tuple(map(Component.parse, names_of("ComponentSpace.parse", "names", names))))

    @cached_property
    def _index(self) -> dict[Component, int]:
        return {component: i for i, component in enumerate(self.components)}

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The space cut into runs of equal site, layer and role, in mask order."""
        blocks, start = list[Block](), 0
        for place, members in groupby(self.components, _place):
            units = tuple(component.unit or 0 for component in members)
            blocks.append(Block(*place, start, units))
            start += len(units)
        return tuple(blocks)

    @cached_property
    def by_place(self) -> ComponentSpace:
        """The same components, those of one place and role side by side, units ascending."""
        firsts: dict[tuple[Site, int, str], int] = {}
        for component in self:
            firsts.setdefault(_place(component), len(firsts))
        ordered = sorted(self, key=lambda component: (firsts[_place(component)], component.unit or 0))
        return ComponentSpace(tuple(ordered))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites in the space, in order of first appearance."""
        return tuple(dict.fromkeys(component.site for component in self.components))

    @property
    def names(self) -> list[str]:
        """Names of the components, in order."""
        return [str(component) for component in self.components]

    def indices(self, components: Iterable[Component]) -> tuple[int, ...]:
        """Mask indices of these components, ascending. Raises InputError for one outside the space."""
        return tuple(sorted(self._places(components)))

    def _places(self, components: Iterable[Component]) -> list[int]:
        try:
            return [self._index[component] for component in components]
        except KeyError as missing:
            raise InputError(
                f"{missing.args[0]} is not in this component space of {len(self)}: {self.outline}"
            ) from None

    def indicator(self, components: Iterable[Component]) -> np.ndarray:
        """True at these components [n]. Raises InputError for one outside the space."""
        import numpy as np  # not before it is needed: the command line starts without it

        found = np.zeros(len(self), bool)
        found[self._places(components)] = True
        return found

    @cached_property
    def outline(self) -> str:
        """One phrase for what the space holds, such as ``40 head_output in 5 layers``."""
        parts = []
        for site in self.sites:
            members = [component for component in self.components if component.site is site]
            parts.append(f"{len(members)} {site} in {len({member.layer for member in members})} layers")
        return " + ".join(parts)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.components[index]

    def __len__(self) -> int:
        return len(self.components)

    def __contains__(self, component: object) -> bool:
        return component in self._index

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components)


HELD: Mapping[Site, frozenset[Site]] = {
    Site.RESIDUAL: frozenset(Site) - {Site.RESIDUAL} - OF_DICTIONARIES,
    Site.ATTENTION_OUTPUT: frozenset({Site.ATTENTION_PATTERN, Site.HEAD_OUTPUT, Site.KV_GROUP}),
    Site.KV_GROUP: frozenset({Site.ATTENTION_PATTERN, Site.HEAD_OUTPUT}),
    Site.HEAD_OUTPUT: frozenset({Site.ATTENTION_PATTERN}),
    Site.MLP_OUTPUT: frozenset({Site.MLP_NEURON, Site.MLP_COORDINATE, Site.EXPERT}),
    Site.MLP_COORDINATE: frozenset({Site.MLP_NEURON, Site.EXPERT}),
}
"""Site -> the sites whose values are in its own, and are lost where it takes another."""


def overlap(components: Sequence[Component]) -> tuple[Component, Component] | None:
    """Return two components where the first holds the second, as ``L0.resid`` does ``L0.head1``; else None."""
    by_layer: dict[int, dict[tuple[Site, str], Component]] = {}
    for component in components:
        by_layer.setdefault(component.layer, {}).setdefault((component.site, component.role), component)
    for found in by_layer.values():
        for (site, role), outer in found.items():
            for (other, other_role), inner in found.items():
                meets = role == other_role or "all" in (role, other_role)
                wider = other in HELD.get(site, ()) or (site is other and role == "all" != other_role)
                if wider and meets:
                    return outer, inner
    return None


def _place(component: Component) -> tuple[Site, int, str]:
    return component.site, component.layer, component.role


ADDED = ((Site.HEAD_OUTPUT, Site.ATTENTION_OUTPUT), (Site.MLP_OUTPUT,))
"""Sites of ``L4.*``: the parts that a layer adds to the stream, each by the first of its sites that the layer has."""
_PATTERN = re.compile(
    r"L(?P<layer>\d{1,9}|\*)\.(?:(?P<every>\*)|(?P<tag>[a-z]+(?:\.[a-z]+)?)(?P<unit>\d{1,9}|\*)?)(?:@(?P<role>[A-Za-z_][\w-]*))?"
)
_LAYERS = re.compile(r"\s*(\d{1,9})\s*(?:\.\.\s*(\d{1,9})\s*)?")
WAYS = (
    "a site such as head_output, one at a role (head_output@last), a component (L4.head2), or several (L4.*, L*.head2)"
)
Layers = range | str | int | Sequence[int] | None
"""Layer numbers; ``8..16`` is 8 to 16, both included, and commas join several."""


@dataclass(frozen=True)
class Entry:
    """One entry of ``sites``; a field that is None narrows nothing."""

    text: str
    sites: tuple[Site, ...]
    """The first of them that a layer has, where there are several."""
    layer: int | None = None
    unit: int | None = None
    role: str | None = None
    single: bool = False
    """Whether it names one component."""
    every: bool = False
    """Whether it is of what a layer adds, so that a layer without it is none the worse."""

    @classmethod
    def parse(cls, value: str | Site | Component) -> tuple[Entry, ...]:
        """The entry, or those, that a text stands for. Raises InputError, UnknownName."""
        text = value.value if isinstance(value, Site) else str(value)
        if found := _PATTERN.fullmatch(text):
            return _pattern(text, found)
        if re.match(r"[aL]?\d", text):
            one = Component.parse(text)
            role = one.role if "@" in text else None
            return (cls(text, (one.site,), one.layer, one.unit, role, single=True),)
        site, at, role = text.partition("@")
        if at and not re.fullmatch(r"[A-Za-z_][\w-]*", role):
            raise InputError(f"sites: {text!r} names no role behind the @; write it as {site}@last, say")
        return (cls(text, (Site.named(site),), role=role or None),)

    def at(self, component: Component, roles: Sequence[str]) -> bool:
        """Whether a component of the entry's site is meant."""
        layer, unit = self.layer in (None, component.layer), self.unit in (None, component.unit)
        return layer and unit and (component.role == self.role if self.role else component.role in roles)


def _pattern(text: str, found: re.Match[str]) -> tuple[Entry, ...]:
    layer, role = (None if found["layer"] == "*" else int(found["layer"])), found["role"]
    if found["every"]:
        return tuple(Entry(text, sites, layer, role=role, every=True) for sites in ADDED)
    if found["tag"] not in SITE_OF_TAG:
        raise InputError(f"sites: {text!r} is of no site; give {WAYS}")
    site, unit = SITE_OF_TAG[found["tag"]], found["unit"]
    if site.has_units != (unit is not None):
        right = f"{site.tag}2 or {site.tag}*" if site.has_units else site.tag
        raise InputError(f"sites: {text!r}: write {right} behind the layer")
    single = layer is not None and unit != "*"
    return (Entry(text, (site,), layer, None if unit in (None, "*") else int(unit), role, single),)


def layers_of(layers: Layers) -> frozenset[int] | None:
    """The layer numbers; None for all. Raises InputError."""
    if layers is None:
        return None
    if not isinstance(layers, str):
        found = [layers] if isinstance(layers, int) else list(layers)
        numbers = frozenset(found)
    else:
        parts = [_LAYERS.fullmatch(part) for part in layers.split(",")]
        ends = [(int(part[1]), int(part[2] or part[1])) for part in parts if part is not None]
        wrong = len(ends) < len(parts) or any(low > high for low, high in ends)
        numbers = frozenset() if wrong else frozenset(n for low, high in ends for n in range(low, high + 1))
    if not numbers or min(numbers) < 0:
        raise InputError(
            f"layers is {shortened(layers)}; give numbers from 0, such as 8..16 (both included) or 0,3,8..16"
        )
    return numbers
