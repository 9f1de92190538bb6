"""Paths: under which name a plain Hugging Face model holds a component, for tools that hook modules by name."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cotrace.components import Component, Site
from cotrace.errors import InputError, UnsupportedSite
from cotrace.models import LanguageModel
from cotrace.models.language_model import evaluating
from cotrace.models.places import Place
from cotrace.models.taps import tapped
from cotrace.models.watch import probe_ids

ORDER = (
    Site.HEAD_OUTPUT,
    Site.ATTENTION_OUTPUT,
    Site.MLP_NEURON,
    Site.MLP_COORDINATE,
    Site.MLP_OUTPUT,
    Site.RESIDUAL,
)
"""Sites that are columns of one module's input or output, in the order in which a layer computes them."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of a tensor [row, pos, feature] that goes into or comes out of a module."""

    path: str
    """Name of the module in the Hugging Face model."""
    side: str
    """``input``, ``output``, or ``output[0]`` where the module returns a tuple."""
    units: tuple[int, ...]
    """Which components; each is ``width`` columns wide."""
    width: int


def columns_of(model: LanguageModel, components: Iterable[Component]) -> list[Columns]:
    """Where the components are, in the order in which the model computes them.

    Raises InputError for a component with a role or of a site that is no column, UnsupportedSite where no module
    takes the heads' outputs as they are.
    """
    chosen: dict[tuple[int, Site], list[int]] = {}
    for component in components:
        if component.role != "all":
            raise InputError(f"{component} is one position role, which a snippet does not find; trace without roles")
        if component.site not in ORDER:
            raise InputError(
                f"{component} is no part of one module's input or output; export it to transformer-lens, or trace "
                f"{', '.join(ORDER)}"
            )
        chosen.setdefault((component.layer, component.site), []).append(component.unit or 0)
    takers = _takers(model) if any(site is Site.HEAD_OUTPUT for _, site in chosen) else {}
    order = sorted(chosen, key=lambda place: (place[0], ORDER.index(place[1])))
    return [_columns(model, layer, site, chosen[layer, site], takers) for layer, site in order]


def _columns(model: LanguageModel, layer: int, site: Site, units: list[int], takers: dict[int, nn.Module]) -> Columns:
    place = model.places(site).get(layer)
    if place is None or max(units) >= place.units:
        raise InputError(f"{model.name} has no {site} {max(units)} in layer {layer}; give the selection's own model")
    module, side = place.module, place.tap
    if side == "attention":
        if layer not in takers:
            raise UnsupportedSite(
                f"{model.name}: no module of layer {layer} takes the heads' outputs as they are (they are gated or "
                "normed first), so that a hook by name does not reach them; export to transformer-lens or json"
            )
        module, side = takers[layer], "input"
    path = next(name for name, part in model.module.named_modules() if part is module)
    whole = "output[0]" if side == "output" and module in _tuple_makers(model, (module,)) else side
    return Columns(path=path, side=whole, units=tuple(sorted(units)), width=place.width)


def _takers(model: LanguageModel) -> dict[int, nn.Module]:
    """Layer -> the first module whose input is, number for number, what all heads of the layer give."""
    heads: dict[int, Tensor] = {}
    given: dict[nn.Module, Tensor] = {}

    def note(layer: int, own: Tensor) -> Tensor:
        heads[layer] = own.detach().flatten(2)
        return own

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            given.setdefault(module, args[0].detach().clone())

    places: dict[int, Place] = model.places(Site.HEAD_OUTPUT)
    with ExitStack() as stack, torch.no_grad(), evaluating(model.module):
        for part in model.module.modules():
            stack.callback(part.register_forward_pre_hook(hook).remove)
        stack.enter_context(tapped(model.module, [(place, partial(note, layer)) for layer, place in places.items()]))
        model.module(probe_ids(model.module))
    return {
        layer: taker
        for layer, value in heads.items()
        if (taker := next((m for m in model.layers[layer].module.modules() if _same(given.get(m), value)), None))
    }


def _same(given: Tensor | None, value: Tensor) -> bool:
    return given is not None and given.shape == value.shape and torch.equal(given, value)


def _tuple_makers(model: LanguageModel, modules: Iterable[nn.Module]) -> set[nn.Module]:
    """Those of the modules that return a tuple."""
    found: set[nn.Module] = set()

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, tuple | list):
            found.add(module)

    with ExitStack() as stack, torch.no_grad(), evaluating(model.module):
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        model.module(probe_ids(model.module))
    return found
