"""Components of a model that are meant by sites, names, patterns, roles and layers.

A model here is anything with the name, layers, sites, ``places`` and ``meant`` of a LanguageModel, which calls this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotrace.components import OF_DICTIONARIES, Component, ComponentSpace, Entry, Layers, Site, layers_of
from cotrace.errors import InputError

ALL = "all"


def entries_of(sites: Any) -> list[Entry]:
    """Return the entries of sites, names and components, each once. Raises InputError, UnknownName."""
    given = [sites] if isinstance(sites, str) else list(sites)
    texts = [one.value if isinstance(one, Site) else str(one) for one in given]
    double = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    if double is not None:
        raise InputError(f"{double} stands twice in the component space: name each site and component once")
    return [entry for one in given for entry in Entry.parse(one)]


def named_space(model: Any, sites: Any, roles: Sequence[str], layers: Layers = None) -> ComponentSpace:
    """Return the components that are named, or all of the sites, for each role and in these layers.

    Sites in the order in which they are first named, layer by layer. Raises InputError, UnsupportedSite, UnknownName.
    """
    if isinstance(sites, ComponentSpace):
        whole = set(_whole(model, sites.sites))
        strange = next((component for component in sites if replace(component, role=ALL) not in whole), None)
        if strange is not None:
            raise InputError(f"{model.name} has no {strange}; it has {_whole(model, sites.sites).outline}")
        found = list(sites)
    else:
        found = list(_meant(model, entries_of(sites), roles, layers_of(layers)))
    return ComponentSpace(tuple(_inside(model, found, layers_of(layers))))


def _whole(model: Any, sites: Sequence[Site]) -> ComponentSpace:
    return ComponentSpace(tuple(_meant(model, entries_of(sites), (ALL,), None)))


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


def _inside(model: Any, components: Sequence[Component], layers: frozenset[int] | None) -> Sequence[Component]:
    """Return the components in the layers. Raises InputError where there is none, or the model lacks a layer."""
    if layers is None:
        return components
    depth = len(model.layers)
    if max(layers) >= depth:
        raise InputError(f"layers go up to {max(layers)}, and {model.name} has layers 0 to {depth - 1}")
    found = [component for component in components if component.layer in layers]
    if not found:
        raise InputError("none of the sites is in these layers: name other layers, or other sites")
    return found
