"""How much of a selection lies in each layer."""

from __future__ import annotations

from collections import Counter

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cotrace.report.style import AMBER, BLUE, GREEN, ORANGE, PAGE, PINK, SKY, is_narrow, styled, titled
from cotrace.report.words import heading
from cotrace.results import Frontier

SITE_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER)


def layers(frontier: Frontier, k: int, *, width: float = PAGE) -> Figure:
    """Components chosen in each layer, sites stacked. Raises InputError where the search found no set of exactly k."""
    chosen = Counter((member.site, member.layer) for member in frontier.at(k).members)
    places = sorted({component.layer for component in frontier.space})
    with styled(width):
        figure = Figure(figsize=(width, 1.3 + min(0.26 * len(places), 6.0)), layout="constrained")
        axes = figure.subplots()
        start = [0] * len(places)
        for index, site in enumerate(frontier.space.sites):
            counts = [chosen[site, layer] for layer in places]
            colour = SITE_COLOURS[index % len(SITE_COLOURS)]
            axes.barh(range(len(places)), counts, left=start, color=colour, label=site.value, height=0.75)
            start = [before + count for before, count in zip(start, counts, strict=True)]
        axes.set_yticks(range(len(places)), [str(layer) for layer in places])
        axes.set_ylabel("layer")
        axes.set_xlabel("components chosen")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        titled(figure, f"Where the set of k = {k} lies ({frontier.search})\n{heading(frontier)}", width)
        if len(frontier.space.sites) > 1:
            figure.legend(loc="outside lower left", ncols=2 if is_narrow(width) else 4)
    return figure
