"""Rows of the table of components: what each does alone, when it leaves, how often it returns, and with whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from cotrace.components import Component
from cotrace.report.page.material import Material
from cotrace.statistics import Interval

MOST_ROWS = 250
MOST_ALONE = 50
LATE = 1 << 40
ONES = np.array([value.bit_count() for value in range(256)], np.int64)
"""Bits that are set in each byte."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One component. What was not computed is None."""

    index: int
    """Its place in the mask."""
    name: str
    site: str
    layer: int
    first_k: int | None = None
    """Smallest size whose best set holds it."""
    share: float | None = None
    """Share of the sizes from then on whose best set holds it."""
    alone: float | None = None
    leaves: float | None = None
    leaves_interval: Interval | None = None
    leaves_on: str = ""
    """The pairs on which its leaving was measured."""
    status: str = ""
    inclusion: float | None = None
    shapley: float | None = None
    partner: str = ""
    """The member with which it interacts most."""
    interaction: float | None = None


@dataclass(frozen=True)
class Presence:
    """How the sizes of the first search hold each component of the space."""

    first: Int[np.ndarray, "n"]
    """Smallest size whose best set holds it; 0 where none does."""
    share: Float[np.ndarray, "n"]
    """Share of the sizes from then on whose best set holds it."""

    @classmethod
    def of(cls, material: Material) -> Presence:
        """One look at every set."""
        n, sizes = len(material.space), np.array(material.first.sizes)
        first, count = np.zeros(n, np.int64), np.zeros(n, np.int64)
        for selection in material.first:
            places = material.places(selection)
            first[places[first[places] == 0]] = selection.k
            count[places] += 1
        later = len(sizes) - np.searchsorted(sizes, first)
        return cls(first, count / np.maximum(later, 1))


def rows_of(material: Material) -> tuple[tuple[Row, ...], int]:
    """The components of the sets found, and those that do most alone; and how many of some set are left out."""
    presence, alone = Presence.of(material), singles(material)
    members = set(material.places(material.chosen).tolist())
    most = sorted(alone, key=lambda place: -abs(alone[place]))[:MOST_ALONE]
    found = {*np.flatnonzero(presence.first).tolist(), *most}
    ranked = sorted(found, key=lambda i: (i not in members, presence.first[i] or LATE, -abs(alone.get(i, 0.0)), i))
    kept = ranked[:MOST_ROWS]
    leaving = _leaving(material)
    rows = tuple(_row(material, place, presence, alone.get(place), leaving) for place in kept)
    return rows, int((presence.first > 0).sum()) - sum(row.first_k is not None for row in rows)


def singles(material: Material) -> dict[int, float]:
    """Place -> effect alone, on the pairs searched, of the components that some search evaluated alone."""
    found: dict[int, float] = {}
    place_of = np.argsort(material.order)
    for frontier in material.frontiers:
        table = material.table(frontier, "training")
        if table is None:
            continue
        lone = np.flatnonzero(_counts(table.keys) == 1)
        places = np.unpackbits(table.keys[lone], axis=1, count=table.n).argmax(axis=1)
        weights = material.weights("training", table.effects.shape[1])
        effects = np.average(table.effects[lone].astype(np.float64), axis=1, weights=weights)
        found = dict(zip(place_of[places].tolist(), effects.tolist(), strict=True)) | found
    return found


def _counts(keys: UInt8[np.ndarray, "set byte"]) -> Int[np.ndarray, "set"]:
    """How many components each packed set holds."""
    return np.asarray(ONES[keys].sum(axis=1))


def _leaving(material: Material) -> dict[str, Row]:
    """Name -> what is lost when it leaves the chosen set: as judged, or from sets that a search evaluated."""
    judged = material.judged
    if judged is not None and judged.minimality is not None:
        return {
            one.component: Row(
                index=0,
                name=one.component,
                site="",
                layer=0,
                leaves=one.loss,
                leaves_interval=one.interval,
                leaves_on=judged.judged_on,
                status=one.status,
            )
            for one in judged.minimality.members
        }
    return dict(_known_leaving(material))


def _known_leaving(material: Material) -> Iterator[tuple[str, Row]]:
    places = material.places(material.chosen)
    whole = material.mean_effect(places)
    if whole is None or len(places) > MOST_ROWS:
        return
    for i, place in enumerate(places.tolist()):
        rest = np.delete(places, i)
        without = material.mean_effect(rest) if len(rest) or material.first.mode == "keep" else 0.0
        if without is not None:
            name, loss = str(material.space[place]), material.first.sign * (whole - without)
            yield name, Row(index=place, name=name, site="", layer=0, leaves=loss, leaves_on="training")


def _row(material: Material, place: int, presence: Presence, alone: float | None, leaving: dict[str, Row]) -> Row:
    one: Component = material.space[place]
    name, first = str(one), int(presence.first[place])
    left = leaving.get(name)
    partner, interaction = _strongest(material, name)
    return Row(
        index=place,
        name=name,
        site=one.site.value,
        layer=one.layer,
        first_k=first or None,
        share=float(presence.share[place]) if first else None,
        alone=alone,
        leaves=None if left is None else left.leaves,
        leaves_interval=None if left is None else left.leaves_interval,
        leaves_on="" if left is None else left.leaves_on,
        status="" if left is None else left.status,
        inclusion=_inclusion(material, name),
        shapley=_shapley(material, name),
        partner=partner,
        interaction=interaction,
    )


def _inclusion(material: Material, name: str) -> float | None:
    judged = material.judged
    return None if judged is None or not judged.stability else judged.stability[0].inclusion.get(name, 0.0)


def _shapley(material: Material, name: str) -> float | None:
    judged = material.judged
    if judged is None or judged.interactions is None or judged.interactions.shapley is None:
        return None
    return judged.interactions.shapley.values.get(name)


def _strongest(material: Material, name: str) -> tuple[str, float | None]:
    judged = material.judged
    pairs = judged.interactions.pairs if judged is not None and judged.interactions is not None else ()
    own = [pair for pair in pairs if name in pair.components]
    if not own:
        return "", None
    top = max(own, key=lambda pair: abs(pair.within))
    return next(other for other in top.components if other != name), top.within
