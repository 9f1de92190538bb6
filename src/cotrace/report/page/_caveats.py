"""Caveats: what the results of this run do not show, each from a number or a gap of the run itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cotrace.report.page.inputs import Material, figure_of
from cotrace.results.table import ranges
from cotrace.statistics import covers

FEW_UNITS = 30
SHORTFALL = 0.7
"""Held-out share of the training effect below which the fall is named."""
ALPHA = 0.05
OFF_DISTRIBUTION = ("zero", "noise", "mean", "resample", "vector", "scale")


@dataclass(frozen=True)
class Caveat:
    """One sentence or two, and whether it bears on the verdict itself."""

    text: str
    grave: bool = False


def caveats(material: Material) -> tuple[Caveat, ...]:
    """The grave ones first."""
    parts = (_nothing_moves, _holdout, _pairs, _judgement, _controls, _shortfall, _metric, _surrogate, _refused, _drawn)
    more = (_donors, _bounds, _gaps, _stability, _members, _audit, _meaning)
    found = [caveat for part in (*parts, *more) for caveat in part(material)]
    return tuple(sorted(found, key=lambda one: not one.grave))


def _nothing_moves(material: Material) -> Iterator[Caveat]:
    judged = material.judged
    if (judged is not None and covers(judged.full_interval)) or "covers 0" in material.first.summary:
        yield Caveat(
            "The interval of the full swap covers 0: these pairs do not show an effect that a set could explain.", True
        )
    elif not material.first.full_is_clear or (judged is not None and not judged.full_shown):
        yield Caveat("What the full swap does is within rounding: no effect is a share of it.", True)


def _holdout(material: Material) -> Iterator[Caveat]:
    if not material.heldout:
        yield Caveat(
            "Nothing was held out: every effect is on the training pairs, by which the set was chosen; the choice "
            "flatters it. Trace with --holdout 0.3.",
            True,
        )


def _pairs(material: Material) -> Iterator[Caveat]:
    judged = material.judged
    if judged is None:
        return
    counts = [int(number) for number in re.findall(r"\d+", judged.units)]
    units = min([judged.pairs, *counts])
    if judged.full_interval is None and judged.chosen.interval is None:
        why = next((note.partition(": ")[2] for note in judged.notes if note.startswith("no intervals")), judged.units)
        yield Caveat(f"There are no intervals ({why}): the figures may be chance.", True)
    elif units < FEW_UNITS:
        yield Caveat(f"The intervals rest on few pairs ({judged.units}): they are wide, and rough.")


def _judgement(material: Material) -> Iterator[Caveat]:
    judged = material.judged
    if judged is None:
        whose = f" of {material.first.search}" if material.evaluations else ""
        yield Caveat(
            f"The result{whose} was not judged: there are no controls and no verdict. Judge it with cotrace evaluate "
            "RUN.",
            True,
        )
    elif judged.level == "quick":
        yield Caveat(
            "Judged at level quick: whether each member is needed, interactions and side effects were not measured. "
            "cotrace evaluate RUN --level standard measures them."
        )


def _controls(material: Material) -> Iterator[Caveat]:
    judged = material.judged
    controls = None if judged is None else judged.controls
    if controls is None:
        return
    if controls.p_value > ALPHA:
        yield Caveat(
            f"The selection is not shown to do more than random sets of its size and composition (p = "
            f"{controls.p_value:.2g}).",
            True,
        )
    elif controls.p_value <= controls.smallest_p * 1.0001:
        yield Caveat(
            f"p = {controls.p_value:.2g} is the least that {controls.chains} random sets can give: more of them would "
            "say more."
        )


def _shortfall(material: Material) -> Iterator[Caveat]:
    chosen = material.chosen
    if chosen.effect_heldout is None or not chosen.effect:
        return
    if chosen.effect_heldout / chosen.effect < SHORTFALL:
        yield Caveat(
            f"On held-out pairs the selection does {figure_of(chosen.effect_heldout)}, on the training pairs "
            f"{figure_of(chosen.effect)}: part of what the search found is chance.",
            True,
        )


def _metric(material: Material) -> Iterator[Caveat]:
    judged, chosen = material.judged, material.chosen
    if material.first.metric == "odds_ratio":
        yield Caveat(
            "odds_ratio has no upper bound: pairs with tiny odds rule its mean. Read the median and the share of pairs "
            "moved beside it, or trace log_odds."
        )
    median = chosen.median_heldout if judged is None else judged.chosen.median
    mean = chosen.effect_heldout if judged is None else judged.chosen.effect
    if median is not None and mean and not 0.5 <= median / mean <= 2:
        yield Caveat(
            f"Mean and median effect differ ({figure_of(mean)} against {figure_of(median)}): a few pairs rule the mean."
        )


def _surrogate(material: Material) -> Iterator[Caveat]:
    if any(one.reported is not None for one in material.first):
        yield Caveat("Searches followed a soft form of the metric; the level that people read stands beside it.")
    first, chosen = material.first, material.chosen
    for heldout, where in ((True, "held-out pairs"), (False, "the pairs searched")):
        hard = first.hard(chosen, heldout=heldout)
        if hard is not None and hard.caveat:
            yield Caveat(f"On {where}: {hard.caveat}.", True)


def _refused(material: Material) -> Iterator[Caveat]:
    refused = material.record.get("pairs_refused")
    if material.examples is not None:
        refused = len(material.examples.refused)
    if isinstance(refused, int) and refused:
        training = material.record.get("pairs_training", material.record.get("pairs_searched", 0))
        others = (int(material.record.get(key, 0)) for key in ("pairs_heldout", "pairs_audit"))
        total = refused + int(training) + sum(others)
        share = f" of {total}" if total > refused else ""
        yield Caveat(f"{refused}{share} pairs could not be used: the results cover only the rest.")


def _drawn(material: Material) -> Iterator[Caveat]:
    searched, training = (material.record.get(f"pairs_{part}") for part in ("searched", "training"))
    if isinstance(searched, int) and isinstance(training, int) and searched < training:
        yield Caveat(
            f"The searches looked at {searched} of the {training} training pairs (--search-pairs); effects on training "
            "pairs are of all of them."
        )


def _donors(material: Material) -> Iterator[Caveat]:
    donors = str(material.config.get("donors") or "")
    if donors.partition("=")[0] in OFF_DISTRIBUTION:
        yield Caveat(
            f"Donor values come from {donors!r}, which the model need not meet in use: a set may matter for how it "
            "breaks, not for how it works."
        )


def _bounds(material: Material) -> Iterator[Caveat]:
    first = material.first
    broken = [
        one.k for one in first if one.side_heldout is not None and any(v > 0 for v in first.violations(one.k) or ())
    ]
    if broken:
        yield Caveat(
            f"On held-out pairs the constraints do not hold at k = {ranges(broken)}.", material.chosen.k in broken
        )
    if first.infeasible_sizes:
        yield Caveat(f"No set that keeps the constraints was found at k = {ranges(list(first.infeasible_sizes))}.")


def _gaps(material: Material) -> Iterator[Caveat]:
    partial = [one.search for one in material.frontiers if len(one) != one.sizes[-1] - one.sizes[0] + 1]
    if partial:
        yield Caveat(
            f"Sizes are left out by {', '.join(partial)}: its points are not joined, between them nothing is known."
        )


def _stability(material: Material) -> Iterator[Caveat]:
    judged = material.judged
    if judged is not None and judged.stability and all(one.method == "archive bootstrap" for one in judged.stability):
        yield Caveat(
            "How often a component returns was found by choosing again among sets already evaluated, which cannot find "
            "a set that the search never saw. cotrace evaluate RUN --stability 10 searches again."
        )


def _members(material: Material) -> Iterator[Caveat]:
    judged = material.judged
    if judged is None:
        return
    if any(row.near_equal for row in judged.alternatives):
        yield Caveat("Other sets of this size are not shown to be worse: this is one such set, not the only one.")
    if judged.interactions is not None and any(pair.interval is not None for pair in judged.interactions.pairs):
        yield Caveat("Intervals of interactions are not adjusted for the number of pairs of members looked at.")


def _audit(material: Material) -> Iterator[Caveat]:
    if not material.heldout or any(one.judged_on == "audit" for one in material.evaluations):
        return
    if material.config.get("audit"):
        yield Caveat(
            "The audit pairs have not been looked at: once the size and the search are chosen, cotrace evaluate RUN "
            "--audit gives the final figures."
        )
    else:
        yield Caveat(
            "Whoever chooses a size or a search by the held-out curve makes its figures too good: keep a share for the "
            "end with --audit, and judge on it once."
        )


def _meaning(material: Material) -> Iterator[Caveat]:
    verb = "moves the metric when it is swapped" if material.first.mode == "swap" else "is enough to keep the metric"
    yield Caveat(f"A set that {verb} is evidence of what matters on these pairs, not an explanation of why.")
