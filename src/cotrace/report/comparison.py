"""What each search reaches, and for what cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotrace.report.frontiers import check_same_question, legend, panel
from cotrace.report.style import INK, MUTED, PAGE, colour, is_narrow, styled, titled
from cotrace.report.words import heading, level, quantity
from cotrace.results import Frontier


def compare(frontiers: Frontier | Sequence[Frontier], *, width: float = PAGE) -> Figure:
    """The frontiers on held-out pairs, and their best effect against what the search had cost when it found the set.

    Raises InputError where the frontiers answer different questions.
    """
    shown = [one for one in ([frontiers] if isinstance(frontiers, Frontier) else frontiers) if len(one)]
    check_same_question(shown)
    heldout = any(selection.effect_heldout is not None for one in shown for selection in one)
    with styled(width):
        rows = 2 if is_narrow(width) else 1
        figure = Figure(figsize=(width, 1.2 + 2.1 * rows if rows == 2 else 3.8), layout="constrained")
        axes = figure.subplots(rows, 2 // rows, squeeze=False).ravel()
        panel(axes[0], shown, "held-out pairs" if heldout else "pairs searched", heldout=heldout)
        axes[0].set_ylabel(quantity(shown[0]))
        _by_cost(axes[1], shown)
        titled(figure, f"What each search reaches, and for what cost\n{heading(shown[0])}", width)
        legend(figure, axes[0], width)
    return figure


def _by_cost(axes: Axes, frontiers: Sequence[Frontier]) -> None:
    """Best effect on the pairs searched by the cost at which it was found; a dot where the search ended."""
    axes.set_title("when it was found, pairs searched")
    axes.axhline(frontiers[0].full_effect, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=level(frontiers[0]))
    for index, one in enumerate(frontiers):
        points = [*progress(one), (one.forward_equivalents, one.best().effect or 0.0)]
        own = colour(one.search, index)
        axes.step(*zip(*points, strict=True), where="post", color=own, linewidth=1.3)
        axes.plot(*points[-1], marker="o", markersize=4, color=own)
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set_xscale("log")
    axes.set_xlabel("forward-equivalents")


def progress(frontier: Frontier) -> Iterator[tuple[float, float]]:
    """(cost, best effect until then) over the frontier's sets, where the search noted when it found them."""
    known = [(one.forward_equivalents, one.effect) for one in frontier if one.effect is not None]
    best: float | None = None
    for cost, effect in sorted((cost, effect) for cost, effect in known if cost):
        if best is None or frontier.sign * effect > frontier.sign * best:
            best = effect
            yield cost, effect
