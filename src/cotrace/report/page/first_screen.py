"""The first screen: the question, the answer, how sure it is and what it does not say, for non-programmers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cotrace import shipped
from cotrace.report.page import _run_summary as run_summary
from cotrace.report.page._caveats import caveats
from cotrace.report.page.inputs import ReportInputs, figure_of
from cotrace.report.page.plain import Plain, sentences
from cotrace.results.outcomes import Shift

ALPHA = 0.05


@dataclass(frozen=True)
class Said:
    """One part of the first screen: a heading and its sentences."""

    head: str
    lines: tuple[str, ...]


def first_screen(inputs: ReportInputs) -> tuple[Said, ...]:
    """Question, answer, certainty and limits, in the language of the report."""
    words = sentences(inputs.language)
    parts = (("asked", _asked), ("found", _found), ("sure", _sure), ("not", _not))
    return tuple(Said(words[head], tuple(part(inputs, words))) for head, part in parts)


def plain_of_chosen(inputs: ReportInputs) -> Plain | None:
    """The plain figures, where they are of the set that the page judges."""
    found = inputs.plain
    chosen = set(inputs.chosen.components)
    return found if found is not None and set(found.components) == chosen else None


def parts_words(inputs: ReportInputs, words: Mapping[str, str]) -> str:
    """The name of the components: heads, or parts of several kinds."""
    sites = [site.value for site in inputs.first.space.sites]
    return words.get(f"parts_{sites[0]}", words["parts_other"]) if len(sites) == 1 else words["parts_other"]


def percent(share: float) -> str:
    """``31 %``; a digit more near the ends, where whole per cents would say 0 or 100."""
    near = min(share, 1 - share)
    digits = 0 if near >= 0.01 or near <= 0 else 1
    return f"{100 * share:.{digits}f}\u00a0%" if digits == 0 or near >= 0.001 else _end(share)


def _end(share: float) -> str:
    return "<\u00a00.1\u00a0%" if share < 0.5 else ">\u00a099.9\u00a0%"


def _asked(inputs: ReportInputs, words: Mapping[str, str]) -> Iterator[str]:
    first = inputs.first
    named = str(inputs.config.get("model") or first.model)
    model = words["model_shipped"] if named == shipped.NAME else run_summary.short_name(named) or words["model"]
    yield words[f"asked_{first.mode}"].format(
        n=f"{len(first.space):,}", parts=parts_words(inputs, words), model=model, task=first.task
    )


def _found(inputs: ReportInputs, words: Mapping[str, str]) -> Iterator[str]:
    first, chosen, plain = inputs.first, inputs.chosen, plain_of_chosen(inputs)
    donors = first.donors or "counterfactual"
    kind = "keep" if first.mode == "keep" else "counterfactual" if donors == "counterfactual" else "other"
    when = words[f"when_{kind}"].format(k=chosen.k, donors=donors)
    yield f"{when} {_does(inputs, plain, words)}"


def _does(inputs: ReportInputs, plain: Plain | None, words: Mapping[str, str]) -> str:
    first, chosen = inputs.first, inputs.chosen
    if plain is None:
        unseen = chosen.effect_heldout is not None
        effect, full = (
            (chosen.effect_heldout, first.full_effect_heldout) if unseen else (chosen.effect, first.full_effect)
        )
        metric = first.metric.replace("_", " ")
        return words["effect_only"].format(metric=metric, effect=figure_of(effect), full=figure_of(full))
    spoken, share = plain.spoken, plain.spoken.share
    if spoken.answer:
        what = words["share_of"].format(answer=spoken.answer.strip())
    else:
        what = words["probability_of_target" if plain.odds is None else "share_of_target"]
    before, after = percent(share.before), percent(share.after)
    way = "stays" if before == after else "rises" if share.change > 0 else "falls"
    return words[way].format(what=what, before=before, after=after)


def _sure(inputs: ReportInputs, words: Mapping[str, str]) -> Iterator[str]:
    plain, parts = plain_of_chosen(inputs), parts_words(inputs, words)
    pairs = _pairs(inputs, plain)
    if pairs is not None:
        part = "heldout" if inputs.chosen.effect_heldout is not None else "training"
        yield words[f"pairs_{part}"].format(pairs=f"{pairs:,}", parts=parts)
    if plain is not None:
        yield from _interval(plain.spoken.share, words)
    p = inputs.chosen.p_value
    if p is None:
        yield words["random_none"]
    else:
        yield words["random_no" if p <= ALPHA else "random_yes"].format(p=f"{p:.2g}", parts=parts)


def _pairs(inputs: ReportInputs, plain: Plain | None) -> int | None:
    if plain is not None:
        return plain.spoken.share.pairs
    return None if inputs.judged is None else inputs.judged.pairs


def _interval(share: Shift, words: Mapping[str, str]) -> Iterator[str]:
    if share.after_interval is None:
        yield words["interval_none"]
        return
    low, high = share.after_interval
    yield words["interval"].format(low=percent(low), high=percent(high))
    if not share.is_shown:
        yield words["chance"]


def _not(inputs: ReportInputs, words: Mapping[str, str]) -> Iterator[str]:
    yield words["not_cause"].format(parts=parts_words(inputs, words))
    yield words["not_other"]
    grave = sum(one.grave for one in caveats(inputs))
    if grave:
        yield words["not_grave_one" if grave == 1 else "not_grave"].format(count=grave)
