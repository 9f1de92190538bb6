"""Spaces: which components of a model a search may choose from: whole sites, single names, layers, a shortlist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cotrace.batches.roles import ALL
from cotrace.components import OF_DICTIONARIES, Component, ComponentSpace, Site
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.results import Frontier, Selection
from cotrace.site_names import Entry, Layers, layers_of


def entries_of(sites: Any) -> list[Entry]:
    """The entries of ``sites``, each once. Raises InputError, UnknownName."""
    given = list(
        shortlist(sites) if isinstance(sites, Frontier | Selection) else [sites] if isinstance(sites, str) else sites
    )
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


def space_of(
    model: LanguageModel,
    sites: Sequence[str | Site | Component] | ComponentSpace | Frontier | Selection,
    roles: Sequence[str],
    layers: Layers = None,
) -> ComponentSpace:
    """The components that are named, or all of the sites, for each role and in these layers.

    Sites in the order in which they are first named, layer by layer. Raises InputError, UnsupportedSite, UnknownName.
    """
    if isinstance(sites, ComponentSpace):
        whole = set(model.space(sites.sites))
        strange = next((component for component in sites if replace(component, role=ALL) not in whole), None)
        if strange is not None:
            raise InputError(f"{model.name} has no {strange}; it has {model.space(sites.sites).outline}")
        found = list(sites)
    else:
        found = list(_meant(model, entries_of(sites), roles, layers_of(layers)))
    return ComponentSpace(tuple(_inside(model, found, layers_of(layers))))


def _meant(
    model: LanguageModel, entries: Sequence[Entry], roles: Sequence[str], layers: frozenset[int] | None
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
        raise InputError(f"{model.name} has no {missed.text}; it has {model.space(there or model.sites).outline}")


def _sited(model: LanguageModel, entry: Entry) -> Iterator[tuple[Site, Entry]]:
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


def _inside(
    model: LanguageModel, components: Sequence[Component], layers: frozenset[int] | None
) -> Sequence[Component]:
    """Those in the layers. Raises InputError where none is, or a layer that the model does not have is asked for."""
    if layers is None:
        return components
    depth = len(model.layers)
    if max(layers) >= depth:
        raise InputError(f"layers go up to {max(layers)}, and {model.name} has layers 0 to {depth - 1}")
    found = [component for component in components if component.layer in layers]
    if not found:
        raise InputError("none of the sites is in these layers: name other layers, or other sites")
    return found
