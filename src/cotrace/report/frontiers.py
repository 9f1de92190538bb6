"""The frontier of each search: effect against the number of components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cotrace.arguments import checked
from cotrace.errors import InputError
from cotrace.report.style import INK, MARKERS, MUTED, colour, is_narrow, styled, titled
from cotrace.report.words import heading, level, quantity
from cotrace.results import Frontier, Selection


@checked("ct.report.frontier")
def frontier(frontiers: Frontier | Sequence[Frontier], *, width: float | None = None) -> Figure:
    """Effect against k for one or several searches of one problem, on the pairs searched and on those held out.

    ``width`` in inches; panels stand below each other where it is narrow. Raises InputError where the frontiers answer
    different questions.
    """
    if width is not None and not width > 0:
        raise InputError(f"ct.report.frontier: width is {width}; give inches above 0")
    shown = [frontiers] if isinstance(frontiers, Frontier) else list(frontiers)
    check_same_question(shown)
    heldout = any(selection.effect_heldout is not None for one in shown for selection in one)
    width = width or (8.6 if heldout else 5.6)
    with styled(width):
        panels = 2 if heldout else 1
        rows = panels if is_narrow(width) else 1
        figure = Figure(figsize=(width, 1.2 + 2.1 * rows if is_narrow(width) else 4.3), layout="constrained")
        axes = figure.subplots(rows, panels // rows, sharey=True, squeeze=False).ravel()
        panel(axes[0], shown, "pairs searched", heldout=False)
        if heldout:
            panel(axes[1], shown, "held-out pairs", heldout=True)
        axes[0].set_ylabel(quantity(shown[0]))
        titled(figure, f"The most that k components do\n{heading(shown[0])}", width)
        legend(figure, axes[0], width)
    return figure


def check_same_question(frontiers: Sequence[Frontier]) -> None:
    """Raise InputError where there is none, or they answer different questions."""
    if not frontiers:
        raise InputError("a figure needs at least one frontier")
    if len({(one.mode, one.direction, one.metric, one.task, one.space.components) for one in frontiers}) > 1:
        raise InputError("these frontiers answer different questions: draw those of one task, metric, mode and space")


def panel(axes: Axes, frontiers: Sequence[Frontier], title: str, heldout: bool) -> None:
    """The searches on one part of the pairs."""
    axes.set_title(title)
    _draw_level(axes, frontiers[0], heldout)
    for index, one in enumerate(frontiers):
        _draw(axes, one, index, heldout)
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set_xlabel(f"components chosen, k (of {len(frontiers[0].space)})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)


def _draw_level(axes: Axes, one: Frontier, heldout: bool) -> None:
    value = one.full_effect_heldout if heldout else one.full_effect
    if value is not None:
        axes.axhline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=level(one), zorder=1)


def _draw(axes: Axes, one: Frontier, index: int, heldout: bool) -> None:
    points = [(s.k, value, s) for s in one if (value := _value(s, heldout)) is not None]
    if not points:
        return
    style = _line(one, index)
    label = f"{one.search} ({one.forward_equivalents:,.0f} forward-eq.)"
    axes.plot(
        [k for k, _, _ in points], [value for _, value, _ in points], label=label, zorder=3 - index * 0.1, **style
    )
    bars = [(k, s.interval) for k, _, s in points if s.interval is not None]
    if heldout and bars:
        low, high = [interval[0] for _, interval in bars], [interval[1] for _, interval in bars]
        axes.fill_between([k for k, _ in bars], low, high, color=style["color"], alpha=0.15, linewidth=0)


def _line(one: Frontier, index: int) -> dict[str, Any]:
    """The first search filled and on top, the others hollow around it: where curves coincide all stay visible."""
    size = 3 if index == 0 else 5.5
    style: dict[str, Any] = {
        "color": colour(one.search, index),
        "marker": MARKERS.get(one.search, "v"),
        "markersize": size,
    }
    style |= {"linewidth": 1.4, "markeredgewidth": 1.1, "markevery": max(1, len(one) // 40)}
    if index > 0:
        style |= {"markerfacecolor": "none", "linewidth": 0.9}
    return style | ({"linestyle": "none"} if _is_partial(one) else {})


def _value(selection: Selection, heldout: bool) -> float | None:
    return selection.effect_heldout if heldout else selection.effect


def _is_partial(one: Frontier) -> bool:
    """Whether sizes are left out, so that a line between the points would claim too much."""
    return one.sizes != list(range(one.sizes[0], one.sizes[-1] + 1))


def legend(figure: Figure, axes: Axes, width: float | int) -> None:
    """Below the panels, the searches first."""
    handles, labels = axes.get_legend_handles_labels()
    order = [i for i, label in enumerate(labels) if not label.startswith("model level")]
    order += [i for i in range(len(labels)) if i not in order]
    shown = [handles[i] for i in order], [labels[i] for i in order]
    columns, size = (2, 6.5) if is_narrow(width) else (3, 8)
    figure.legend(*shown, loc="outside lower left", ncols=columns, fontsize=size)
