"""Snippets: Python that does a selection's intervention with TransformerLens or nnsight, without cotrace.

Everything that comes from outside (model ids, task names) stands in the code as a string literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from textwrap import wrap
from typing import Any

import torch
from torch import Tensor, nn

from cotrace import shipped
from cotrace.components import Component, Site
from cotrace.errors import InputError, UnsupportedSite
from cotrace.interchange._document import About
from cotrace.models import LanguageModel
from cotrace.models.hooks import hooked, probe_ids
from cotrace.models.language_model import evaluating
from cotrace.models.places import Place
from cotrace.results import Selection

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
            other = "export it to transformer-lens" if component.site in HOOKS else "export it to json"
            raise InputError(
                f"{component} is no part of one module's input or output; {other}, or trace {', '.join(ORDER)}"
            )
        chosen.setdefault((component.layer, component.site), []).append(component.unit or 0)
    takers = _takers(model) if any(site is Site.HEAD_OUTPUT for _, site in chosen) else {}
    order = sorted(chosen, key=lambda place: (place[0], ORDER.index(place[1])))
    return [_columns(model, layer, site, chosen[layer, site], takers) for layer, site in order]


def _columns(model: LanguageModel, layer: int, site: Site, units: list[int], takers: dict[int, nn.Module]) -> Columns:
    place = model.places(site).get(layer)
    if place is None or max(units) >= place.units:
        raise InputError(f"{model.name} has no {site} {max(units)} in layer {layer}; give the selection's own model")
    module, side = place.module, place.side
    if side == "attention":
        if layer not in takers:
            raise UnsupportedSite(
                f"{model.name}: no module of layer {layer} takes the heads' outputs as they are (they are gated or "
                "normed first), so that a hook by name does not reach them; export to transformer-lens or json"
            )
        module, side = takers[layer], "input"
    path = next(name for name, part in model.module.named_modules() if part is module)
    named = "output[0]" if side == "output" and module in _tuple_makers(model, (module,)) else side
    return Columns(path=path, side=named, units=tuple(sorted(units)), width=place.width)


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
        stack.enter_context(hooked(model.module, [(place, partial(note, layer)) for layer, place in places.items()]))
        model.module(probe_ids(model.module))
    return {
        layer: taker
        for layer, value in heads.items()
        if (taker := next((m for m in model.layers[layer].module.modules() if _same(given.get(m), value)), None))
    }


def _same(given: Tensor | None, value: Tensor) -> bool:
    return given is not None and given.shape == value.shape and torch.equal(given, value)


def _tuple_makers(model: LanguageModel, modules: Iterable[nn.Module]) -> set[nn.Module]:
    """Return the modules that return a tuple."""
    found: set[nn.Module] = set()

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, tuple | list):
            found.add(module)

    with ExitStack() as stack, torch.no_grad(), evaluating(model.module):
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        model.module(probe_ids(model.module))
    return found


HOOKS = {
    Site.ATTENTION_PATTERN: "attn.hook_pattern",
    Site.HEAD_OUTPUT: "attn.hook_z",
    Site.ATTENTION_OUTPUT: "hook_attn_out",
    Site.MLP_NEURON: "mlp.hook_post",
    Site.MLP_OUTPUT: "hook_mlp_out",
    Site.MLP_COORDINATE: "hook_mlp_out",
    Site.RESIDUAL: "hook_resid_post",
}
DONORS = ("counterfactual", "zero")


def transformer_lens(selection: Selection, about: About) -> str:
    """A module with ``answer_scores`` under the intervention. Raises InputError for what its hooks do not reach.

    Args:
        selection: The selection.
        about: Its question.
    """
    _check(about)
    rows: dict[str, list[int] | None] = {}
    for component in sorted(about.changed(selection), key=lambda c: (c.layer, list(HOOKS).index(_site(c)))):
        name = f"blocks.{component.layer}.{HOOKS[component.site]}"
        _join(rows, name, component)
    body = "".join(f"    {name!r}: {units!r},\n" for name, units in rows.items())
    return _filled("transformer_lens", about, selection, body)


def nnsight(selection: Selection, about: About, columns: Sequence[Columns]) -> str:
    """The same with nnsight; ``columns`` are those of ``columns_of(model, about.changed(selection))``.

    Args:
        selection: The selection.
        about: Its question.
    """
    _check(about)
    rows = [(column.path, column.side, list(column.units), column.width) for column in columns]
    return _filled("nnsight", about, selection, "".join(f"    {row!r},\n" for row in rows))


def _site(component: Component) -> Site:
    if component.role != "all":
        raise InputError(f"{component} is one position role, which a snippet does not find; trace without roles")
    if component.site not in HOOKS:
        raise InputError(
            f"{component}: TransformerLens has no hook for {component.site} in every model; export it to json, or "
            f"trace {', '.join(HOOKS)}"
        )
    return component.site


def _join(rows: dict[str, list[int] | None], name: str, component: Component) -> None:
    """Add a component to its hook; a whole output and some of its coordinates are the whole output."""
    if component.unit is None:
        rows[name] = None
    elif rows.setdefault(name, []) is not None:
        units = rows[name]
        assert units is not None
        units.append(component.unit)


def _check(about: About) -> None:
    for name in ("donors", "align", "positions"):
        if not getattr(about, name):
            raise InputError(f"the selection comes without its {name}; give About.of(frontier, {name}=...)")
    if about.donors not in DONORS:
        raise InputError(
            f"donors {about.donors!r}: snippets reproduce {' and '.join(DONORS)}, whose values need no data but the "
            "pair; export to json"
        )
    if about.align != "exact":
        raise InputError(f"align {about.align!r}: snippets take prompts of equal length only; export to json")
    if about.positions != "prompt":
        raise InputError(f"positions {about.positions!r}: snippets change the prompt's positions only; export to json")


def _filled(tool: str, about: About, selection: Selection, body: str) -> str:
    """The template with its constants filled in; every text is a literal."""
    template = files("cotrace.interchange").joinpath(f"{tool}_snippet.txt").read_text("utf-8")
    values: dict[str, Any] = {
        "MODEL": about.model,
        "REVISION": about.revision,
        "DONOR": about.donors,
        "SELECTED": selection.components,
        "QUESTION": question(about),
    }
    texts = {name: _literal(value) for name, value in values.items()} | {"PATCHED": body, "IMPORT": ""}
    if about.model == shipped.NAME:  # it lies where cotrace does, on every machine elsewhere
        texts |= {"IMPORT": "from cotrace import shipped\n", "MODEL": "str(shipped.MODEL)"}
    # In one pass: what is filled in is never looked through for further gaps.
    return re.sub(r"<<([A-Z]+)>>", lambda gap: texts[gap[1]], template)


def _literal(value: object) -> str:
    if not isinstance(value, list):
        return repr(value)
    lines = wrap(", ".join(map(repr, value)), 101, break_long_words=False, break_on_hyphens=False)
    return "[\n" + "".join(f"    {line.rstrip(',')},\n" for line in lines) + "]"


def question(about: About) -> str:
    """Return the question in one phrase."""
    what = {"swap": "these components take the donor's value", "keep": "all but the selected take the donor's value"}
    parts = (about.metric, about.task and f"on {about.task}", f"mode {about.mode}: {what[about.mode]}")
    return ", ".join(part for part in parts if part)
