"""Caveats: what the results of this run do not show, each from a number or a gap of the run itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cotrace.report.page.inputs import ReportInputs, figure_of
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


def caveats(inputs: ReportInputs) -> tuple[Caveat, ...]:
    """The grave ones first."""
    parts = (_nothing_moves, _holdout, _pairs, _judgement, _controls, _shortfall, _metric, _surrogate, _refused, _drawn)
    more = (_donors, _bounds, _gaps, _stability, _members, _audit, _meaning)
    found = [caveat for part in (*parts, *more) for caveat in part(inputs)]
    return tuple(sorted(found, key=lambda one: not one.grave))


def _nothing_moves(inputs: ReportInputs) -> Iterator[Caveat]:
    judged = inputs.judged
    if (judged is not None and covers(judged.full_interval)) or "covers 0" in inputs.first.summary:
        yield Caveat(
            "The interval of the full swap covers 0: these pairs do not show an effect that a set could explain.", True
        )
    elif not inputs.first.full_is_clear or (judged is not None and not judged.full_shown):
        yield Caveat("What the full swap does is within rounding: no effect is a share of it.", True)


def _holdout(inputs: ReportInputs) -> Iterator[Caveat]:
    if not inputs.heldout:
        yield Caveat(
            "Nothing was held out: every effect is on the training pairs, by which the set was chosen; the choice "
            "flatters it. Trace with --holdout 0.3.",
            True,
        )


def _pairs(inputs: ReportInputs) -> Iterator[Caveat]:
    judged = inputs.judged
    if judged is None:
        return
    counts = [int(number) for number in re.findall(r"\d+", judged.units)]
    units = min([judged.pairs, *counts])
    if judged.full_interval is None and judged.chosen.interval is None:
        why = next((note.partition(": ")[2] for note in judged.notes if note.startswith("no intervals")), judged.units)
        yield Caveat(f"There are no intervals ({why}): the figures may be chance.", True)
    elif units < FEW_UNITS:
        yield Caveat(f"The intervals rest on few pairs ({judged.units}): they are wide, and rough.")


def _judgement(inputs: ReportInputs) -> Iterator[Caveat]:
    judged = inputs.judged
    if judged is None:
        whose = f" of {inputs.first.search}" if inputs.evaluations else ""
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


def _controls(inputs: ReportInputs) -> Iterator[Caveat]:
    judged = inputs.judged
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


def _shortfall(inputs: ReportInputs) -> Iterator[Caveat]:
    chosen = inputs.chosen
    if chosen.effect_heldout is None or not chosen.effect:
        return
    if chosen.effect_heldout / chosen.effect < SHORTFALL:
        yield Caveat(
            f"On held-out pairs the selection does {figure_of(chosen.effect_heldout)}, on the training pairs "
            f"{figure_of(chosen.effect)}: part of what the search found is chance.",
            True,
        )


def _metric(inputs: ReportInputs) -> Iterator[Caveat]:
    judged, chosen = inputs.judged, inputs.chosen
    if inputs.first.metric == "odds_ratio":
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


def _surrogate(inputs: ReportInputs) -> Iterator[Caveat]:
    if any(one.reported is not None for one in inputs.first):
        yield Caveat("Searches followed a soft form of the metric; the level that people read stands beside it.")
    first, chosen = inputs.first, inputs.chosen
    for heldout, where in ((True, "held-out pairs"), (False, "the pairs searched")):
        hard = first.hard(chosen, heldout=heldout)
        if hard is not None and hard.caveat:
            yield Caveat(f"On {where}: {hard.caveat}.", True)


def _refused(inputs: ReportInputs) -> Iterator[Caveat]:
    refused = inputs.record.get("pairs_refused")
    if inputs.examples is not None:
        refused = len(inputs.examples.refused)
    if isinstance(refused, int) and refused:
        training = inputs.record.get("pairs_training", inputs.record.get("pairs_searched", 0))
        others = (int(inputs.record.get(key, 0)) for key in ("pairs_heldout", "pairs_audit"))
        total = refused + int(training) + sum(others)
        share = f" of {total}" if total > refused else ""
        yield Caveat(f"{refused}{share} pairs could not be used: the results cover only the rest.")


def _drawn(inputs: ReportInputs) -> Iterator[Caveat]:
    searched, training = (inputs.record.get(f"pairs_{part}") for part in ("searched", "training"))
    if isinstance(searched, int) and isinstance(training, int) and searched < training:
        yield Caveat(
            f"The searches looked at {searched} of the {training} training pairs (--search-pairs); effects on training "
            "pairs are of all of them."
        )


def _donors(inputs: ReportInputs) -> Iterator[Caveat]:
    donors = str(inputs.config.get("donors") or "")
    if donors.partition("=")[0] in OFF_DISTRIBUTION:
        yield Caveat(
            f"Donor values come from {donors!r}, which the model need not meet in use: a set may matter for how it "
            "breaks, not for how it works."
        )


def _bounds(inputs: ReportInputs) -> Iterator[Caveat]:
    first = inputs.first
    broken = [
        one.k for one in first if one.side_heldout is not None and any(v > 0 for v in first.violations(one.k) or ())
    ]
    if broken:
        yield Caveat(
            f"On held-out pairs the constraints do not hold at k = {ranges(broken)}.", inputs.chosen.k in broken
        )
    if first.infeasible_sizes:
        yield Caveat(f"No set that keeps the constraints was found at k = {ranges(list(first.infeasible_sizes))}.")


def _gaps(inputs: ReportInputs) -> Iterator[Caveat]:
    partial = [one.search for one in inputs.frontiers if len(one) != one.sizes[-1] - one.sizes[0] + 1]
    if partial:
        yield Caveat(
            f"Sizes are left out by {', '.join(partial)}: its points are not joined, between them nothing is known."
        )


def _stability(inputs: ReportInputs) -> Iterator[Caveat]:
    judged = inputs.judged
    if judged is not None and judged.stability and all(one.method == "archive bootstrap" for one in judged.stability):
        yield Caveat(
            "How often a component returns was found by choosing again among sets already evaluated, which cannot find "
            "a set that the search never saw. cotrace evaluate RUN --stability 10 searches again."
        )


def _members(inputs: ReportInputs) -> Iterator[Caveat]:
    judged = inputs.judged
    if judged is None:
        return
    if any(row.near_equal for row in judged.alternatives):
        yield Caveat("Other sets of this size are not shown to be worse: this is one such set, not the only one.")
    if judged.interactions is not None and any(pair.interval is not None for pair in judged.interactions.pairs):
        yield Caveat("Intervals of interactions are not adjusted for the number of pairs of members looked at.")


def _audit(inputs: ReportInputs) -> Iterator[Caveat]:
    if not inputs.heldout or any(one.judged_on == "audit" for one in inputs.evaluations):
        return
    if inputs.config.get("audit"):
        yield Caveat(
            "The audit pairs have not been looked at: once the size and the search are chosen, cotrace evaluate RUN "
            "--audit gives the final figures."
        )
    else:
        yield Caveat(
            "Whoever chooses a size or a search by the held-out curve makes its figures too good: keep a share for the "
            "end with --audit, and judge on it once."
        )


def _meaning(inputs: ReportInputs) -> Iterator[Caveat]:
    verb = "moves the metric when it is swapped" if inputs.first.mode == "swap" else "is enough to keep the metric"
    yield Caveat(f"A set that {verb} is evidence of what matters on these pairs, not an explanation of why.")
