"""Interactions: what two members do together beyond what they do apart, as a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cotrace.errors import InputError
from cotrace.report.style import BLUE, FAINT, INK, MUTED, ORANGE, PAGE, PAPER, is_narrow, styled, titled

if TYPE_CHECKING:
    from cotrace.evaluation import Evaluation

DIVERGING = LinearSegmentedColormap.from_list("less and more", [ORANGE, PAPER, BLUE])
MOST_NUMBERS = 12


def interactions(evaluation: Evaluation | None, *, width: float = PAGE) -> Figure:
    """Members x members; blue does more together, orange less. Raises InputError where they were not measured."""
    found = None if evaluation is None else evaluation.interactions
    if evaluation is None or found is None or not found.pairs:
        raise InputError(
            "interactions were not measured: judge the run with cotrace evaluate RUN --level standard, at a k of at "
            "least 2"
        )
    paired = {name for pair in found.pairs for name in pair.components}
    names = [name for name in evaluation.components if name in paired]
    cells = _cells(found.pairs, names)
    with styled(width):
        side = min(width, 1.6 + 0.42 * len(names))
        figure = Figure(figsize=(min(width, side + 2.4), side + 0.6), layout="constrained")
        axes = figure.subplots()
        bound = float(np.nanmax(np.abs(cells))) or 1.0
        image = axes.imshow(cells, cmap=DIVERGING, vmin=-bound, vmax=bound)
        figure.colorbar(image, ax=axes, shrink=0.7, label=f"change of {evaluation.metric}, together beyond apart")
        _dress(axes, cells, names, numbers=len(names) <= MOST_NUMBERS and not is_narrow(width))
        where = f"{evaluation.task}, mode {evaluation.mode}, {evaluation.units}, {evaluation.judged_on}"
        titled(figure, f"Interactions within the set of k = {evaluation.k}\n{where}", width)
    return figure


def _cells(pairs: Any, names: list[str]) -> Float[np.ndarray, "member member"]:
    place = {name: i for i, name in enumerate(names)}
    cells = np.full((len(names), len(names)), np.nan)
    for pair in pairs:
        a, b = (place[name] for name in pair.components)
        cells[a, b] = cells[b, a] = pair.within
    return cells


def _dress(axes: Axes, cells: Float[np.ndarray, "member member"], names: list[str], numbers: bool) -> None:
    axes.set_facecolor(FAINT)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelcolor=MUTED)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if numbers:
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                ink = PAPER if abs(value) > 0.6 * float(np.nanmax(np.abs(cells))) else INK
                axes.text(column, row, f"{value:+.2g}", ha="center", va="center", fontsize=7, color=ink)
