"""``cotrace export``: a run's selection or figures in the formats of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cotrace import interchange
from cotrace.cli.libraries import own_threads, quiet_libraries
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.new_file import new_file
from cotrace.problem.posing import Division
from cotrace.results import Frontier, Selection
from cotrace.results.csv_text import frame_csv
from cotrace.runs.directory import write_atomically
from cotrace.runs.evidence import prepare_again, with_effects
from cotrace.runs.goal import ids_of
from cotrace.runs.prepare import load, use_threads
from cotrace.runs.results import SHARE, enough
from cotrace.runs.stored import StoredRun
from cotrace.visible import visible, visible_json


@dataclass(frozen=True)
class Source:
    """What is exported: one selection of a run; the model is loaded only by the formats that ask for it."""

    run: StoredRun
    frontier: Frontier
    selection: Selection
    rule: str

    @classmethod
    def read(cls, path: str, search: str | None, k: int | None) -> Source:
        """The selection of exactly k, or without k the one that is enough. Raises InputError."""
        run = StoredRun.read(path)
        frontier = run.frontier(search)
        if k is not None:
            return cls(run, frontier, frontier.at(k), f"k = {k}")
        return cls(run, frontier, enough(frontier), f"smallest k with {SHARE:.0%} of the best effect")

    @cached_property
    def model(self) -> LanguageModel:
        """The run's model."""
        quiet_libraries()
        model = load(self.run.config)
        use_threads(self.run.config, model)
        return model

    def about(self, model: str) -> interchange.About:
        """The question of the run; ``model`` is what the other tool calls the model."""
        config = self.run.config
        known = {"revision": config.revision, "donors": config.donor_words, "align": config.align}
        parts = ("holdout", "audit", "split_by", "seed", "search_pairs", "judge_pairs")
        split = Division(**{name: getattr(config, name) for name in parts}).words
        return interchange.About.of(self.frontier, model, positions=config.positions, split=split, **known)


def as_json(source: Source) -> bytes:
    """The selection and its question, as selection.schema.json describes."""
    about = source.about(source.run.config.model)
    return _json(interchange.document(source.selection, about, search=source.frontier.search, rule=source.rule))


def as_mib(source: Source) -> bytes:
    """A circuit of the Mechanistic Interpretability Benchmark, nodes ranked by the frontier."""
    shape, scores = interchange.Shape.of(source.model), interchange.ranking(source.frontier)
    return _json(interchange.circuit(source.selection, source.about(source.run.config.model), shape, scores))


def as_transformer_lens(source: Source) -> bytes:
    """Python for TransformerLens."""
    return interchange.transformer_lens(source.selection, source.about(source.run.config.model)).encode()


def as_nnsight(source: Source) -> bytes:
    """Python for nnsight."""
    about = source.about(source.run.config.model)
    columns = interchange.columns_of(source.model, about.changed(source.selection))
    return interchange.nnsight(source.selection, about, columns).encode()


def as_names(source: Source) -> bytes:
    """Component names, one a line."""
    return "".join(f"{name}\n" for name in source.selection.components).encode()


def as_csv(source: Source) -> bytes:
    """One row for each size and member."""
    return frame_csv(source.frontier.members_frame())


@own_threads()
def as_effects(source: Source) -> bytes:
    """One row for each size and pair, training pairs first."""
    import pandas as pd

    quiet_libraries()
    found = with_effects(source.run.path, source.frontier)
    problem = prepare_again(source.run.path, source.run.question).goal
    frames = [found.effects_frame(ids_of(problem)).assign(part="training")]
    if problem.heldout is not None and found.effects_heldout is not None:
        frames.append(found.effects_frame(ids_of(problem.heldout), heldout=True).assign(part="heldout"))
    return frame_csv(pd.concat(frames))


FORMATS: Mapping[str, Callable[[Source], bytes]] = {
    "json": as_json,
    "mib": as_mib,
    "transformer-lens": as_transformer_lens,
    "nnsight": as_nnsight,
    "names": as_names,
    "csv": as_csv,
    "effects": as_effects,
}
"""Format -> what writes it."""
WHOLE = ("csv", "effects")
"""Formats of the whole frontier."""


def export(
    run: str, format_: str, *, k: int | None, search: str | None, out: str | None, quiet: bool, as_json: bool = False
) -> None:
    """Write the selection to a new file, or without one to stdout. Raises CotraceError."""
    path = None if out in (None, "-") else new_file(str(out))
    if k is not None and format_ in WHOLE:
        raise InputError(f"--format {format_} holds every size: leave --k out")
    source = Source.read(run, search, k)
    screen = Screen(quiet, as_json)
    content = FORMATS[format_](source)
    if format_ not in WHOLE:  # whose cells are visible already, and whose lines end as CSV's do
        content = visible(content.decode()).encode()
    if path is not None:
        write_atomically(path, content)
        screen.say(f"Written to {path}")
    elif not as_json:
        screen.raw(content.decode())
    written = {"written": None if path is None else str(path), "content": content.decode() if path is None else None}
    screen.data("export", lambda: {"format": format_, **written})


def _json(data: Any) -> bytes:
    return (visible_json(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)) + "\n").encode()
