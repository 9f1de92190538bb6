"""The account of a run: the question and the verdict in words, and the record that replays it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cotrace import shipped
from cotrace.components import ERROR_SITES, FEATURE_SITES
from cotrace.report.page.inputs import ReportInputs, figure_of
from cotrace.results.table import in_words, shorten
from cotrace.statistics import interval_text

PLACES = {
    "memory": "in memory",
    "disk": "on disk",
    "recomputed": "computed anew for each batch",
}
"""Places where donor values are kept, as the plan counts their bytes."""
CHECKPOINTING = {
    "auto": "activations are computed again where memory runs out",
    "on": "activations are computed again",
    "off": "activations are kept",
}


def batches_words(plan: object) -> str:
    """The plan in one sentence; what a record does not say is left out."""
    return "; ".join(_parts(plan)) if isinstance(plan, Mapping) else ""


def _parts(plan: Mapping[str, Any]) -> Iterator[str]:
    if (tokens := _count(plan, "tokens")) is not None:
        yield f"{tokens} tokens in {_times(plan.get('batches'), 'batch', 'batches')}"
    if (most := _count(plan, "batch_tokens")) is not None:
        yield f"at most {most} tokens in one forward pass"
    if donors := [f"{_size(plan[f'{name}_bytes'])} {words}" for name, words in PLACES.items() if _held(plan, name)]:
        yield f"donor values: {', '.join(donors)}"
    if (words := CHECKPOINTING.get(str(plan.get("checkpointing")))) is not None:
        yield words
    if isinstance(events := plan.get("events"), list):
        yield _changes(events)


def _changes(events: list[Any]) -> str:
    if not events:
        return "memory never ran out"
    last = events[-1]
    now = f", at last to {_count(last, 'batch_tokens')} tokens" if isinstance(last, Mapping) else ""
    return f"memory ran out and batches were made smaller {_times(len(events), 'time', 'times')}{now}"


def _count(plan: Mapping[str, Any], name: str) -> str | None:
    value = plan.get(name)
    return f"{value:,}" if isinstance(value, int) else None


def _times(count: object, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}" if isinstance(count, int) else many


def _held(plan: Mapping[str, Any], name: str) -> bool:
    value = plan.get(f"{name}_bytes")
    return isinstance(value, int) and value > 0


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


SAID = {
    *("summary", "metric", "direction", "components", "space"),
    *("pairs_training", "pairs_searched", "pairs_heldout", "pairs_judged", "pairs_audit", "pairs_refused"),
    *("data_sha256", "model", "threads", "versions", "command", "batch_plan"),
}
"""Entries of a run's record that the page shows in a form of their own."""
UNIT_WORDS = {
    "head_output": "attention heads",
    "attention_pattern": "attention heads",
    "kv_group": "key-value groups",
    "mlp_neuron": "neurons",
    "mlp_coordinate": "MLP coordinates",
    "attention_output": "attention layers",
    "mlp_output": "MLP layers",
    "residual": "layers",
    "expert": "experts",
    **{site.value: "features" for site in FEATURE_SITES},
    **{site.value: "errors of dictionaries" for site in ERROR_SITES},
}
PERCENT = re.compile(r"(?<=\d)%")


@dataclass(frozen=True)
class Headline:
    """One large figure and what it is."""

    figure: str
    words: str


def spaced(text: str) -> str:
    """A text of ours with its percentages as the page writes them: 95 %."""
    return PERCENT.sub("\u00a0%", text)


def title(inputs: ReportInputs) -> str:
    """The question in one line."""
    first = inputs.first
    model = inputs.config.get("model")
    whose = f" in {short_name(str(model))}" if model else ""
    verb = "move" if first.mode == "swap" else "are enough for"
    return f"Which {parts_words(inputs)}{whose}, together, {verb} {first.metric.replace('_', ' ')} on {first.task}?"


def short_name(name: str) -> str:
    """A model without the folders that it lies in."""
    if name == shipped.NAME:
        return "the model that ships with cotrace"
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".")) else name


def parts_words(inputs: ReportInputs) -> str:
    """The kinds of components, in words."""
    return in_words(dict.fromkeys(UNIT_WORDS[site.value] for site in inputs.first.space.sites))


def headlines(inputs: ReportInputs) -> Iterator[Headline]:
    """The selection in a few large figures."""
    first, chosen = inputs.first, inputs.chosen
    which = "judged" if inputs.judged is not None else "shown"
    yield Headline(f"{chosen.k:,} of {len(first.space):,}", f"{parts_words(inputs)} in the set that is {which} here")
    unseen = chosen.effect_heldout is not None
    effect = chosen.effect_heldout if unseen else chosen.effect
    full = first.full_effect_heldout if unseen else first.full_effect
    where = "held-out pairs" if unseen else "the training pairs"
    interval = interval_text(chosen.interval, between=" to ")
    what = "change of" if first.mode == "swap" else "faithfulness of"
    yield Headline(
        figure_of(effect),
        f"{what} {first.metric.replace('_', ' ')} on {where}" + (interval and f", 95 % interval {interval}"),
    )
    if (hard := first.hard(chosen, heldout=unseen)) is not None:
        level = f"{first.metric.replace('_', ' ')} as people read it, {where}"
        yield Headline(hard.words.replace("->", "\u2192"), level)
    share = first.share(chosen, heldout=unseen)
    if share is not None and (inputs.judged is None or inputs.judged.full_shown):
        yield Headline(spaced(f"{share:.0%}"), f"of what swapping everything does ({figure_of(full)})")
    if chosen.moved_share is not None:
        yield Headline(
            spaced(f"{chosen.moved_share:.0%}"), f"of held-out pairs move as the search wanted ({first.direction})"
        )


def verdict(inputs: ReportInputs) -> tuple[str, ...]:
    """The sentences of the evaluation; without one, what the search itself says."""
    if inputs.judged is not None:
        return tuple(map(spaced, inputs.judged.verdict))
    first, chosen = inputs.first, inputs.chosen
    names = shorten(chosen.components, between=", ")
    does = f"{chosen.k:,} of {len(first.space):,} components have {figure_of(chosen.effect)}"
    return (f"{first.search} found that {does}, where all together have {figure_of(first.full_effect)}: {names}.",)


def question(inputs: ReportInputs) -> str:
    """The summary of the problem, with a capital."""
    summary = inputs.first.summary
    return summary[:1].upper() + summary[1:]


def record(inputs: ReportInputs) -> tuple[tuple[str, str], ...]:
    """Name and value of everything that identifies the run."""
    found = inputs.record
    model, versions = found.get("model") or {}, found.get("versions") or {}
    rows = [
        ("model", inputs.config.get("model")),
        ("revision", inputs.config.get("revision")),
        *((f"model {name}", value) for name, value in _items(model)),
        ("task", inputs.config.get("task") or inputs.first.task),
        ("data sha256", found.get("data_sha256")),
        ("pairs", _counts(found)),
        ("component space", found.get("space") or inputs.first.space.outline),
        ("seed", inputs.config.get("seed")),
        ("number type, device, threads", _numbers(inputs)),
        ("versions", ", ".join(f"{name} {value}" for name, value in _items(versions))),
        ("batch plan", batches_words(found.get("batch_plan"))),
        *((name.replace("_", " "), _plain(value)) for name, value in found.items() if name not in SAID),
    ]
    return tuple((name, str(value)) for name, value in rows if value not in (None, "", {}))


def _items(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _plain(value: object) -> object:
    """A value as people write it: the entries of a mapping or a list one behind the other."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name.replace('_', ' ')} {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(_plain(entry)) for entry in value)
    return {None: "", True: "yes", False: "no"}.get(value, value) if value is None or isinstance(value, bool) else value


def _counts(found: Mapping[str, Any]) -> str:
    """Return words such as ``40 for training (16 of them searched), 17 held out``; empty without counts."""
    searched = found.get("pairs_searched")
    training = found.get("pairs_training", searched)
    if training is None:
        return ""
    some = "" if searched == training else f" ({searched} of them searched)"
    words = {"heldout": "held out", "audit": "kept for the audit", "refused": "refused"}
    told = {part: f"{found.get(f'pairs_{part}') or 0} {word}" for part, word in words.items()}
    judged, unseen = found.get("pairs_judged"), found.get("pairs_heldout")
    if judged != unseen and judged is not None:
        told["heldout"] += f" ({judged} of them judge)"
    return ", ".join([f"{training} for training{some}", *told.values()])


def _numbers(inputs: ReportInputs) -> str:
    values = (inputs.config.get("dtype"), inputs.config.get("device"), inputs.record.get("threads"))
    return ", ".join(str(value) for value in values if value is not None)


def config_text(inputs: ReportInputs) -> str:
    """The configuration that replays the run, as YAML; empty where the run has none."""
    stored = {name: value for name, value in inputs.config.items() if name != "record"}
    return yaml.safe_dump(stored, sort_keys=False, allow_unicode=True, width=100) if stored else ""


def commands(inputs: ReportInputs) -> tuple[str, ...]:
    """Commands that replay the run: from its folder, and as it was typed, or would be."""
    if not inputs.config:
        return ()
    typed = inputs.record.get("command")
    words = shlex.join(map(str, typed)) if isinstance(typed, list) and typed else " ".join(_words(inputs.config))
    return ("cotrace trace --config RUN/config.yaml --out NEW", words)


def _words(config: Mapping[str, Any]) -> Iterator[str]:
    searches = config.get("searches") or []
    yield "cotrace compare" if len(searches) > 1 else "cotrace trace"
    for name, value in config.items():
        if name in ("record", "search_options", "task_options") or value in (None, [], (), {}, ""):
            continue
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield f"--{name.replace('_', '-')} {shlex.quote(text)}"
    for name, value in _items(config.get("task_options")):
        yield f"--task-option.{name} {shlex.quote(str(value))}"
    for search, settings in _items(config.get("search_options")):
        for name, value in _items(settings):
            yield f"--option.{search}.{name} {shlex.quote(str(value))}"
