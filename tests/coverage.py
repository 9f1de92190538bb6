"""What the self-check says of one family's tiny random model, as a row of docs/coverage.md."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cotrace.components import OF_DICTIONARIES, Site
from cotrace.models import LanguageModel, wrap
from cotrace.models.places import Layer
from cotrace.selfcheck import CheckReport, check
from tests.families import tiny_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coverage.md"
SITES = tuple(site for site in Site if site not in OF_DICTIONARIES)
"""Those that a model has by itself."""
TRACED, REFUSED, UNBUILT = "yes", "no", "not tried"


@dataclass(frozen=True)
class Row:
    """One family: whether it can be traced, in how many of its layers each site is found, and what is missing."""

    family: str
    traced: str
    cells: tuple[str, ...] = ("",) * len(SITES)
    adds: str = ""
    """Whose outputs are added to the residual stream: those of attention; of the MLP."""
    note: str = ""
    report: CheckReport | None = field(default=None, compare=False)

    @property
    def line(self) -> str:
        """The row in Markdown."""
        return f"| {' | '.join((self.family, self.traced, *self.cells, self.adds, self.note))} |"


def measure(family: str) -> Row:
    """Build the family's tiny model and check it."""
    try:
        module = tiny_model(family)
    except Exception as error:  # a family may fail to build for any reason of its own
        return Row(family, UNBUILT, note=f"cannot be built small: {first_words(error)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = wrap(module, name=family)
            report = check(model)
    except Exception as error:
        return Row(family, REFUSED, note=first_words(error))
    return _row(family, model, report)


def _row(family: str, model: LanguageModel, report: CheckReport) -> Row:
    cells = tuple(_cell(model, site) for site in SITES)
    if model.sites and not report.ok:
        return Row(family, REFUSED, note=report.failures[0].words, report=report)
    missing = {why for layer in model.layers for site, why in layer.missing.items() if layer.place(site) is None}
    note = "; ".join([*sorted(missing), *absent(model)])
    assert_added(model)
    return Row(family, TRACED if model.sites else REFUSED, cells, adders(model), note, report)


def adders(model: LanguageModel) -> str:
    """The classes whose outputs are attention_output and mlp_output, with the factor that the layer puts to them."""
    words = []
    for site in (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT):
        places = [place for layer in model.layers if (place := layer.place(site))]
        factors = {f" x {place.factor:.3g}" if place.factor != 1 else "" for place in places}
        words.append(" or ".join(sorted({type(p.module).__name__ + f for p in places for f in factors})) or "-")
    return "; ".join(words) if any(word != "-" for word in words) else ""


@torch.no_grad()
def assert_added(model: LanguageModel) -> None:
    """In every layer, some tensor is an earlier one plus what is said to be added (and at most one other output).

    By plain hooks and exact sums on a plain run: nothing is fitted, nothing of cotrace runs.
    """
    ids = torch.randint(3, 60, (2, 5), generator=torch.Generator().manual_seed(1))
    for layer in model.layers:
        parts = [p for site in (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT) if (p := layer.place(site))]
        seen: list[tuple[torch.nn.Module, torch.Tensor]] = []
        hooks = [m.register_forward_pre_hook(_taker(seen), with_kwargs=True) for m in layer.module.modules()]
        hooks += [m.register_forward_hook(_giver(seen)) for m in layer.module.modules()]
        model.module(input_ids=ids, use_cache=False)
        for hook in hooks:
            hook.remove()
        values = [p.factor * next(v for m, v in reversed(seen) if m is p.module).reshape(10, -1) for p in parts]
        tensors = [v.reshape(10, -1) for _, v in seen if values and v.numel() == values[0].numel()]
        for part, value in zip(parts, values, strict=True):
            others = [torch.zeros_like(value), *(v for v in values if v is not value), *tensors]
            kept = math.sqrt(1 - part.factor**2) if model.name == "beam" else 1.0  # its stream keeps its variance
            found = any(_is_sum([kept * t for t in tensors], tensors, value + other) for other in others)
            assert found, f"{model.name}: {part} is not added"


def _is_sum(before_: list[torch.Tensor], behind: list[torch.Tensor], added: torch.Tensor) -> bool:
    sums = torch.stack(behind)
    for before in before_:
        error = (sums - before - added).abs().amax((1, 2))
        if bool((error <= 1e-5 * (1 + before.abs().max())).any()):
            return True
    return False


def _taker(seen: list[tuple[torch.nn.Module, torch.Tensor]]) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = (v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.is_floating_point())
        seen.extend((module, v.clone()) for v in given)

    return hook


def _giver(seen: list[tuple[torch.nn.Module, torch.Tensor]]) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        made = output[0] if isinstance(output, tuple | list) else output
        if isinstance(made, torch.Tensor) and made.is_floating_point():
            seen.append((module, made.clone()))

    return hook


def absent(model: LanguageModel) -> Iterator[str]:
    """What layers do not have at all, so that nothing in them was refused."""
    counts = Counter(words for layer in model.layers for words in _lacks(layer))
    for words, count in counts.items():
        yield f"{count} of {len(model.layers)} layers: {words}"


def _lacks(layer: Layer) -> Iterator[str]:
    def has(site: Site) -> bool:
        return layer.place(site) is not None or site in layer.missing

    if not has(Site.ATTENTION_OUTPUT):
        yield "no attention"
    if not has(Site.MLP_OUTPUT):
        yield "no MLP of its own"
    elif not has(Site.MLP_NEURON):
        yield "experts in place of one MLP" if has(Site.EXPERT) else "no down projection found"


def _cell(model: LanguageModel, site: Site) -> str:
    """``all``, or how many of the layers have the site."""
    count = sum(layer.place(site) is not None for layer in model.layers)
    return "" if not count else "all" if count == len(model.layers) else f"{count} of {len(model.layers)}"


def first_words(error: Exception) -> str:
    """The first line of an error, short enough for a table."""
    lines = str(error).strip().split("\n")
    return f"{type(error).__name__}: {lines[0].strip() or (lines[1].strip() if len(lines) > 1 else '')}"[:140].replace(
        "|", "/"
    )


def table(rows: Sequence[Row]) -> str:
    """All rows in Markdown."""
    heads = ("family", "traced", *(f"`{site}`" for site in SITES), "added to the stream", "what is missing and why")
    return "\n".join([f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *(row.line for row in rows)])


def documented() -> dict[str, Row]:
    """The rows of the page as it stands."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    end = 2 + len(SITES)
    return {c[0]: Row(c[0], c[1], tuple(c[2:end]), c[-2], c[-1]) for c in cells if c[0] not in ("family", "---")}
