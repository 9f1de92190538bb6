"""The verdict: sentences made from the numbers of an evaluation, and no more than these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cotrace.components import sign_of
from cotrace.evaluation._records import SideEffect
from cotrace.evaluation.evaluation import Evaluation
from cotrace.results.table import shorten
from cotrace.statistics import Interval, covers, interval_text

ALPHA = 0.05
SHOWN = 12
FEW_SETS = 5
"""Stored sets of a size below which coming back among them says little."""
NOT_TESTED = "not tested"
STATUSES = ("needed", "can leave", "undecided")


def with_verdict(found: Evaluation) -> Evaluation:
    """The evaluation with what its numbers say, in sentences.

    Args:
        found: The evaluation.
    """
    return replace(found, verdict=tuple(sentences(found)))


def sentences(found: Evaluation) -> Iterator[str]:
    """Return the findings of the evaluation in sentences, the weightiest first."""
    for part in (
        _nothing_shown,
        _question,
        _effect,
        _controls,
        _singles,
        _minimality,
        _completeness,
        _stability,
        _alternatives,
        _interactions,
        _roles,
        _faithfulness,
        _side_effects,
        _differences,
        _foreign,
        _certificate,
        _off_manifold,
        _notes,
    ):
        yield from part(found)


def _metric(found: Evaluation) -> str:
    return found.metric.replace("_", " ")


def _where(found: Evaluation) -> str:
    return f"{found.units}, {found.judged_on}"


def _with(interval: Interval | None) -> str:
    return "" if interval is None else f" (95 % interval {interval_text(interval)})"


def _side(interval: Interval | None, scale: float) -> int:
    """+1 or -1 where the interval lies above or below 0, by more than float32 can round effects of this size."""
    least = 1e-5 * abs(scale)
    if interval is None or (interval[0] <= least and interval[1] >= -least):
        return 0
    return 1 if interval[0] > least else -1


def _names(names: Sequence[str]) -> str:
    return shorten(names, SHOWN, ", ")


def _nothing_shown(found: Evaluation) -> Iterator[str]:
    """Said before anything else where these pairs, or those searched, show no effect of the full swap."""
    if found.mode == "swap" and covers(found.full_interval):
        yield (
            f"No effect is shown: on {_where(found)}, the interval of the full swap covers 0, so there is none that a "
            "set of components could explain."
        )
    elif not found.full_shown:
        yield f"No effect is shown: on {_where(found)}, swapping everything does nothing beyond rounding or chance."
    elif not found.full_is_clear_training:
        yield "No effect is shown on the pairs searched: swapping all does nothing there beyond rounding or chance."


def _question(found: Evaluation) -> Iterator[str]:
    if found.mode == "keep":
        yield f"Effects are faithfulness: the share of the difference between full swap and base run ({_where(found)})."
        return
    moved = f"{found.full_effect:+.3g}{_with(found.full_interval)}"
    yield f"Swapping everything moves {_metric(found)} by {moved} on {_where(found)}."


def _effect(found: Evaluation) -> Iterator[str]:
    chosen = found.chosen
    verb = "keeping" if found.mode == "keep" else "swapping"
    searched = "" if found.training_effect is None else f"; on the training pairs it was {found.training_effect:+.3g}"
    share = ""
    if found.mode == "swap" and found.full_shown:
        share = f", {chosen.effect / found.full_effect:.0%} of everything's"
    yield (
        f"With k = {found.k}, {verb} {_names(found.components)} gives {chosen.effect:+.3g}{_with(chosen.interval)}"
        f"{share}{searched}."
    )
    yield from _hard(found)
    if covers(chosen.interval):
        yield "That interval covers 0: the selection's effect cannot be told from none."
    if chosen.median is not None and chosen.effect and not 0.5 <= chosen.median / chosen.effect <= 2:
        yield (
            f"Mean and median differ: {chosen.effect:+.3g} against {chosen.median:+.3g}{_with(found.median_interval)}; "
            "a few pairs rule the mean."
        )
    if chosen.moved_share is not None:
        yield f"{chosen.moved_share:.0%} of the pairs move in the direction of the search ({found.direction})."


def _hard(found: Evaluation) -> Iterator[str]:
    """The figure that people read beside the soft one."""
    parts = [(found.hard, found.judged_on), (found.hard_training, "searched")]
    told = [
        f"{_metric(found)} goes from {h.before:.4g} to {h.after:.4g} on {w} pairs" for h, w in parts if h is not None
    ]
    if told:
        yield f"Effects are of the soft form that searches follow; as people read it, {' and '.join(told)}."
    for hard, where in parts:
        if hard is not None and hard.caveat:
            yield f"Caveat, on {where} pairs: {hard.caveat}."


def _controls(found: Evaluation) -> Iterator[str]:
    about = found.controls
    if about is None:
        return
    least = f"{about.smallest_p:.2g} is the least that {about.chains} controls can give"
    p = f"p = {about.p_value:.2g} at k = {about.k}, fixed beforehand; {least}"
    like = f"random sets of the same size and composition per {about.composition}"
    if about.p_value <= ALPHA:
        yield f"It does more than {like} ({p})."
    else:
        yield f"It is not shown to do more than {like} ({p})."
    adjusted = {row.k: row.p_adjusted for row in found.sizes if row.p_adjusted is not None}
    passed = [str(k) for k, value in adjusted.items() if value <= ALPHA]
    yield (
        f"Adjusted for all {len(adjusted)} sizes tested, p is at most {ALPHA} at "
        f"{'k = ' + ', '.join(passed) if passed else 'none of them'}."
    )


def _singles(found: Evaluation) -> Iterator[str]:
    chosen = found.chosen
    if chosen.single_effect is None or found.controls is None:
        return
    how = "single effects" if found.controls.singles == "effects" else "single effects estimated by gradient"
    beside = f"{chosen.effect:+.3g} against {chosen.single_effect:+.3g}"
    if chosen.over_single is None:
        yield f"The best {found.k} by {how}: {beside}, without an interval of the difference."
    elif _side(chosen.over_single, chosen.effect) > 0:
        yield f"It does more than the best {found.k} by {how}: {beside}{_with(chosen.over_single)}."
    elif _side(chosen.over_single, chosen.effect) < 0:
        yield f"It does less than the best {found.k} by {how}: {beside}{_with(chosen.over_single)}."
    else:
        yield f"It is not shown to do more than the best {found.k} by {how}: {beside}{_with(chosen.over_single)}."


def _minimality(found: Evaluation) -> Iterator[str]:
    if found.minimality is None:
        return
    rows = [row for row in found.minimality.members if row.status != NOT_TESTED]
    if not rows:
        yield "Whether each member is needed was not tested; the table holds what is lost when it leaves."
        return
    by_status = {what: [row.component for row in rows if row.status == what] for what in STATUSES}
    yield f"Leaving one at a time, {len(by_status['needed'])} of the {len(rows)} members tested are shown to be needed."
    if by_status["can leave"]:
        yield (
            f"Each of these can leave with a loss below {found.minimality.margin:.2g}: "
            f"{_names(by_status['can leave'])}; without all of them the effect is "
            f"{found.minimality.left_together:+.3g}."
        )
    if by_status["undecided"]:
        yield f"These pairs do not decide whether these are needed: {_names(by_status['undecided'])}."


def _completeness(found: Evaluation) -> Iterator[str]:
    part = found.completeness
    if part is None:
        return
    nothing = part.share is None or not found.full_shown
    share = "" if nothing else f", {part.share:.0%} of everything's {part.full_effect:+.3g}"
    yield f"All components outside the selection together still do {part.rest_effect:+.3g}{share}."


def _sets(count: int | None) -> str:
    return "sets " if count is None else f"{count} sets of this size "


def _stability(found: Evaluation) -> Iterator[str]:
    for part in found.stability:
        always = [name for name in found.components if part.inclusion.get(name, 0) >= 0.95]
        low = min((part.inclusion.get(name, 0.0) for name in found.components), default=0.0)
        how = (
            f"Re-selected {part.runs} times among the {_sets(part.sets)}already evaluated "
            "(resampled pairs, no new forward)"
            if part.method == "archive bootstrap"
            else f"Searched again {part.runs} times ({', '.join(part.kinds)})"
        )
        jaccard = "" if part.jaccard is None else f"; mean Jaccard index between runs {part.jaccard:.2f}"
        yield (
            f"{how}, {len(always)} of {found.k} members come back in at least 95 % of the runs, the least stable in "
            f"{low:.0%}{jaccard}{_few(part.sets)}."
        )


def _few(sets: int | None) -> str:
    """A warning where there was next to nothing to choose from."""
    few = "; choosing among so few shows no stability: searching again (stability=5, with a search) does"
    return "" if sets is None or sets >= FEW_SETS else few


def _alternatives(found: Evaluation) -> Iterator[str]:
    if not found.alternatives:
        return
    near = [row for row in found.alternatives if row.near_equal]
    if all(row.difference is None for row in found.alternatives):
        best = max(found.alternatives, key=lambda row: row.effect * sign_of(found.direction))
        yield (
            f"The best of {len(found.alternatives)} sets of this size without some members has {best.effect:+.3g}; "
            "whether one does as much was not tested."
        )
    elif near:
        lowest = min(near, key=lambda row: row.overlap)
        yield (
            f"{len(near)} of {len(found.alternatives)} sets of this size without some members are not shown to be "
            "worse: this is one such set, not the only. "
            f"The least alike shares {lowest.overlap:.0%} with it and has {lowest.effect:+.3g}."
        )
    else:
        yield (
            f"None of the {len(found.alternatives)} alternative sets looked at does as much; others were not looked at."
        )


def _interactions(found: Evaluation) -> Iterator[str]:
    if found.interactions is None:
        return
    if found.interactions.pairs and all(pair.interval is None for pair in found.interactions.pairs):
        yield "Synergy and redundancy of members were not tested: their second differences have no intervals."
    for kind in ("synergy", "redundancy"):
        rows = [pair for pair in found.interactions.pairs if pair.kind == kind]
        if rows:
            top = max(rows, key=lambda pair: abs(pair.within))
            yield (
                f"{len(rows)} of {len(found.interactions.pairs)} pairs of members show {kind} (unadjusted intervals), "
                f"most of all {' and '.join(top.components)}: {top.within:+.3g}{_with(top.interval)}."
            )


def _roles(found: Evaluation) -> Iterator[str]:
    if found.interactions is None:
        return
    for row in found.interactions.backups:
        yield (
            f"{row.component} is a backup of {row.of}: {row.alone:+.3g} alone, {row.with_other:+.3g} once that is "
            "chosen too."
        )
    if found.interactions.roles_untested:
        yield f"Whether there are {found.interactions.roles_untested} was not tested."
    for other in found.interactions.inhibitors:
        yield f"{other.component} is an inhibitor: it changes the effect by {other.change:+.3g} against the direction."


def _faithfulness(found: Evaluation) -> Iterator[str]:
    curve = found.faithfulness
    if curve is None:
        return
    if curve.refused:
        yield f"No faithfulness curve: {curve.refused}."
        return
    yield (
        f"Kept (mode keep; sets found in mode {curve.sets_found_in}), the sets of {len(curve.sizes)} sizes have CPR "
        f"{curve.cpr:.3g} and CMD {curve.cmd:.3g} (CPR has no upper bound; CMD is best at 0)."
    )


def _side_effects(found: Evaluation) -> Iterator[str]:
    for row in found.side_effects:
        shown = "" if not covers(row.interval) else "; the interval covers 0"
        change = f"{row.change:+.3g}{_with(row.interval)}{shown}"
        how = "with all but the selected swapped, " if row.mode == "keep" else ""
        yield f"Beside: {how}{row.metric} on {row.task} ({row.examples} examples{_level(row)}) changes by {change}."


def _level(row: SideEffect) -> str:
    return "" if row.before is None else f", {row.before:.3g} before"


def _differences(found: Evaluation) -> Iterator[str]:
    for name in dict.fromkeys(row.search for row in found.differences):
        rows = [row for row in found.differences if row.search == name]
        if all(row.interval is None for row in rows):
            yield f"Against {name} at {len(rows)} sizes: not tested, as the differences have no intervals."
            continue
        better = [str(row.k) for row in rows if _side(row.interval, found.full_effect) > 0]
        worse = [str(row.k) for row in rows if _side(row.interval, found.full_effect) < 0]
        yield (
            f"Against {name} at {len(rows)} sizes (paired, unadjusted): better at {', '.join(better) or 'none'}, "
            f"worse at {', '.join(worse) or 'none'}, not told apart at the others."
        )


def _foreign(found: Evaluation) -> Iterator[str]:
    for row in found.foreign:
        k = len(row.components)
        missing = f" ({len(row.outside_space)} of its components are not in this space)" if row.outside_space else ""
        text = f"{row.name}, {k} components{missing}: {row.effect:+.3g}{_with(row.interval)}"
        if row.own_effect is None:
            yield f"{text}; the search has no set of {k} to compare."
        else:
            difference = _with(row.difference) or " without an interval"
            own = f"the search's own {k} have {row.own_effect:+.3g}"
            yield f"{text}; {own}, difference{difference}, overlap {row.overlap:.2f}."
        if row.auroc:
            roles = ", ".join(f"{role} {value:.2f}" for role, value in row.auroc.items())
            yield f"AUROC of the order in which the search takes components in, by role: {roles}."


def _certificate(found: Evaluation) -> Iterator[str]:
    if found.certificate is not None:
        yield f"Optimality on the training pairs: {found.certificate.words}."


def _off_manifold(found: Evaluation) -> Iterator[str]:
    if not found.off_manifold:
        return
    worst = max(found.off_manifold, key=lambda row: abs(row.effect))
    sizes = _names([str(row.k) for row in found.off_manifold])
    yield (
        f"Off the manifold at k = {sizes}: single pairs move further than twice what swapping everything moves any "
        f"pair ({worst.limit:.3g}); the furthest is pair {worst.id}, {worst.effect:+.3g} at k = {worst.k}. Such mixed "
        "states are met by no text, so what the model does there is no evidence of how it works."
    )


def _notes(found: Evaluation) -> Iterator[str]:
    for note in found.notes:
        yield f"{note[0].upper()}{note[1:]}."
