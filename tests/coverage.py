"""What the self-check says of one family's tiny random model, as a row of docs/coverage.md."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cotrace.components import Site
from cotrace.models import LanguageModel, wrap
from cotrace.models.places import Layer
from cotrace.selfcheck import CheckReport, check
from tests.families import tiny_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "coverage.md"
TRACED, REFUSED, UNBUILT = "yes", "no", "not tried"


@dataclass(frozen=True)
class Row:
    """One family: whether it can be traced, in how many of its layers each site is found, and what is missing."""

    family: str
    traced: str
    cells: tuple[str, ...] = ("",) * len(Site)
    note: str = ""
    report: CheckReport | None = field(default=None, compare=False)

    @property
    def line(self) -> str:
        """The row in Markdown."""
        return f"| {' | '.join((self.family, self.traced, *self.cells, self.note))} |"


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
    cells = tuple(_cell(model, site) for site in Site)
    if model.sites and not report.ok:
        return Row(family, REFUSED, note=report.failures[0].words, report=report)
    missing = {why for layer in model.layers for site, why in layer.missing.items() if layer.place(site) is None}
    note = "; ".join([*sorted(missing), *absent(model)])
    return Row(family, TRACED if model.sites else REFUSED, cells, note, report)


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
    heads = ("family", "traced", *(f"`{site}`" for site in Site), "what is missing and why")
    return "\n".join([f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *(row.line for row in rows)])


def documented() -> dict[str, Row]:
    """The rows of the page as it stands."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {c[0]: Row(c[0], c[1], tuple(c[2 : 2 + len(Site)]), c[-1]) for c in cells if c[0] not in ("family", "---")}
