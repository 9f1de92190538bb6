"""Site names: what ``sites`` and ``layers`` may say: whole sites, single components, several by a pattern, layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cotrace.components import SITE_OF_TAG, Component, Site
from cotrace.errors import InputError
from cotrace.json_file import shortened

ADDED = ((Site.HEAD_OUTPUT, Site.ATTENTION_OUTPUT), (Site.MLP_OUTPUT,))
"""What ``L4.*`` is of: what a layer adds to the stream, each part by the first of its sites that the layer has."""
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
    """One entry of ``sites``; what is None is not narrowed."""

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
