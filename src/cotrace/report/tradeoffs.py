"""The trade-off of edits: what each does to the traced metric against what it costs."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cotrace.errors import InputError
from cotrace.report.style import BLUE, INK, MUTED, ORANGE, styled
from cotrace.results.outcomes import EditPoint, Tradeoff


def tradeoff(found: Tradeoff) -> Figure:
    """Strength against harm on held-out pairs, one panel for each side effect, the Pareto set joined and labelled.

    Raises InputError where no side effect was measured.
    """
    if not found.harms:
        raise InputError("this trade-off has no side effect to draw: measure one, such as the loss on a neutral text")
    with styled():
        figure = Figure(figsize=(max(6.0, 4.4 * len(found.harms)), 4.2), layout="constrained")
        panels = figure.subplots(1, len(found.harms), sharey=True, squeeze=False)[0]
        for index, axes in enumerate(panels):
            _panel(axes, found, index)
        panels[0].set_ylabel(f"strength: move of {found.metric} ({found.aim})")
        title = f"What an edit does and what it costs\n{found.task}, {len(found)} edits, held-out pairs"
        figure.suptitle(title, x=0.012, ha="left", fontsize=10, color=INK)
        figure.supxlabel(
            "joined: the Pareto set, labelled by k and donor; ring: the edit chosen", fontsize=7.5, color=MUTED
        )
    return figure


def _panel(axes: Axes, found: Tradeoff, index: int) -> None:
    others = [point for point in found.points if not point.pareto]
    axes.plot(*_xy(others, index), linestyle="none", marker="o", markersize=3.5, color=MUTED, alpha=0.6)
    front = sorted(found.pareto, key=lambda point: point.harms[index])
    axes.plot(*_xy(front, index), color=BLUE, marker="o", markersize=4.5, linewidth=1)
    for point in front:
        label = f"{point.k}, {point.donor}"
        at = (point.harms[index], point.strength_heldout)
        axes.annotate(label, at, xytext=(3, -8), textcoords="offset points", fontsize=6, color=MUTED)
    if (best := found.best) is not None:
        axes.plot(
            *_xy([best], index), marker="o", markersize=10, markerfacecolor="none", color=ORANGE, linestyle="none"
        )
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set_title(found.harms[index], fontsize=9)
    axes.set_xlabel("harm")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def _xy(points: list[EditPoint], index: int) -> tuple[list[float], list[float]]:
    return [point.harms[index] for point in points], [point.strength_heldout for point in points]
