"""Frontiers made by hand, so that what a figure must show is known."""

from __future__ import annotations

from typing import Any

from cotrace.components import Component, ComponentSpace, Site
from cotrace.results import Frontier, Selection


def space(*names: str) -> ComponentSpace:
    """These components; without names, 2 layers of 3 heads."""
    return ComponentSpace.parse(names or [f"L{layer}.head{head}" for layer in range(2) for head in range(3)])


def frontier(sets: list[list[str]], effects: list[float], **changes: Any) -> Frontier:
    """A frontier of these sets."""
    options: dict[str, Any] = {
        "search": "pursuit",
        "mode": "swap",
        "direction": "maximise",
        "metric": "log_odds",
        "task": "hand",
        "space": space(),
        "forward_equivalents": 12.0,
        "full_effect": 2.5,
        "full_effect_heldout": 2.25,
    }
    heldout = changes.pop("heldout", [effect / 2 for effect in effects])
    selections = tuple(
        Selection(members=tuple(map(Component.parse, names)), effect=effect, effect_heldout=unseen)
        for names, effect, unseen in zip(sets, effects, heldout, strict=True)
    )
    return Frontier(selections=selections, **(options | changes))


SETS = [["L0.head1"], ["L0.head2", "L1.head0"], ["L0.head1", "L0.head2", "L1.head0"]]
"""head1 comes, goes and comes back; the two others come at size 2 and stay."""

NEURONS = ComponentSpace(tuple(Component(Site.MLP_NEURON, layer, unit) for layer in range(2) for unit in range(100)))
