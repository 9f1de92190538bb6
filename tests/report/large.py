"""A run of 40,000 components and 2,000 pairs, made up, and its report."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from cotrace.components import ComponentSpace, Site
from cotrace.report import ReportInputs, report_html
from cotrace.report.page import Example, Examples, Piece
from cotrace.report.page.inputs import compared
from cotrace.results import Frontier, Selection
from cotrace.results.effects import EffectTable

LAYERS, UNITS, PAIRS = 16, 2_500, 2_000
SIZES = [*range(1, 65), *(round(64 * 1.12**step) for step in range(1, 57)), LAYERS * UNITS]


def large_material(searches: int = 3) -> ReportInputs:
    """Sets that grow to all components, with a tenth of their members exchanged at every size."""
    space = ComponentSpace.build({Site.MLP_NEURON: dict.fromkeys(range(LAYERS), UNITS)})
    draw = np.random.default_rng(0)
    names = ("pursuit", "greedy", "topk", "random", "pgbct")
    frontiers = tuple(_frontier(space, names[i], draw) for i in range(searches))
    half = PAIRS // 2
    pairs = [_example(i) for i in range(PAIRS)]
    return ReportInputs(frontiers, examples=Examples(tuple(pairs[:half]), tuple(pairs[half:])))


def _frontier(space: ComponentSpace, name: str, draw: np.random.Generator) -> Frontier:
    order = draw.permutation(len(space))
    chosen = np.zeros((len(SIZES), len(space)), bool)
    selections = []
    for row, k in zip(chosen, SIZES, strict=True):
        order[: 2 * k] = draw.permutation(order[: 2 * k]) if k % 10 == 0 else order[: 2 * k]
        row[order[:k]] = True
        effect = float(np.log1p(k))
        members = tuple(space[int(i)] for i in np.flatnonzero(row))
        selections.append(
            Selection(members=members, effect=effect, effect_heldout=effect * 0.9, interval=(effect * 0.8, effect))
        )
    tables = [EffectTable.of(chosen, draw.normal(size=(len(SIZES), PAIRS // 2))) for _ in range(2)]
    one = Frontier(
        search=name,
        mode="swap",
        direction="maximise",
        metric="log_odds",
        task="large",
        space=space,
        selections=tuple(selections),
        forward_equivalents=1e5,
        full_effect=11.0,
        full_effect_heldout=10.0,
    )
    return replace(one, effects=tables[0], effects_heldout=tables[1])


def _example(i: int) -> Example:
    words = [f"word{(i * 7 + j) % 997}" for j in range(60)]
    other = [*words]
    other[i % 60] = "another"
    base, donor = compared(_piece(words), _piece(other))
    return Example(f"pair-{i}", base, donor, (" yes", " no"), fields={"group": "ab"[i % 2]})


def _piece(words: list[str]) -> Piece:
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    return Piece(" ".join(words), tuple(int(end) for end in ends))


def large_page() -> bytes:
    """The report of it."""
    return report_html(large_material())


if __name__ == "__main__":
    sys.stdout.buffer.write(large_page())
