"""Snippets: Python that does a selection's intervention with TransformerLens or nnsight, without cotrace (but for the
model that ships with it).

Everything that comes from outside (model ids, task names) stands in the code as a string literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from cotrace import shipped
from cotrace.components import Component, Site
from cotrace.errors import InputError
from cotrace.interchange.about import About
from cotrace.interchange.paths import Columns
from cotrace.results import Selection

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
    """A module with ``answer_scores`` under the intervention. Raises InputError for what its hooks do not reach."""
    _check(about)
    rows: dict[str, list[int] | None] = {}
    for component in sorted(about.changed(selection), key=lambda c: (c.layer, list(HOOKS).index(_site(c)))):
        name = f"blocks.{component.layer}.{HOOKS[component.site]}"
        _join(rows, name, component)
    body = "".join(f"    {name!r}: {units!r},\n" for name, units in rows.items())
    return _filled("transformer_lens", about, selection, body)


def nnsight(selection: Selection, about: About, columns: Sequence[Columns]) -> str:
    """The same with nnsight; ``columns`` are those of ``columns_of(model, about.changed(selection))``."""
    _check(about)
    rows = [(column.path, column.side, list(column.units), column.width) for column in columns]
    return _filled("nnsight", about, selection, "".join(f"    {row!r},\n" for row in rows))


def _site(component: Component) -> Site:
    if component.role != "all":
        raise InputError(f"{component} is one position role, which a snippet does not find; trace without roles")
    if component.site not in HOOKS:
        raise InputError(
            f"{component}: TransformerLens has no hook for {component.site} in every model; trace {', '.join(HOOKS)}"
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
    if isinstance(value, list):
        return "[\n" + "".join(f"    {line},\n" for line in _lines(map(repr, value))) + "]"
    return repr(value)


def _lines(words: Iterable[str], width: int = 100) -> Iterable[str]:
    line = ""
    for word in words:
        if line and len(line) + len(word) + 2 > width:
            yield line
            line = ""
        line = f"{line}, {word}" if line else word
    if line:
        yield line


def question(about: About) -> str:
    """What was asked, in one phrase."""
    what = {"swap": "these components take the donor's value", "keep": "all but the selected take the donor's value"}
    parts = (about.metric, about.task and f"on {about.task}", f"mode {about.mode}: {what[about.mode]}")
    return ", ".join(part for part in parts if part)
