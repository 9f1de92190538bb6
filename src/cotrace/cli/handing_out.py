"""Commands that hand a stored run on: ``cotrace figure``, ``report``, ``export`` and ``generate``."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cotrace import interchange
from cotrace import report as reports
from cotrace.cli.console import Screen, own_threads, quiet_libraries
from cotrace.cli.edits import Reopened
from cotrace.editing import Sampling, generate
from cotrace.editing.apply import checked_donor
from cotrace.editing.generation import load_judge
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.problem import Constrained, WeightedSum
from cotrace.problem.builder import Division
from cotrace.results import Frontier, Selection
from cotrace.results.effects import EffectTable
from cotrace.results.outcomes import outcome_table
from cotrace.results.table import frame_csv
from cotrace.run_folder.folder import REDACTED, REPORT, report_inputs
from cotrace.runs.addenda import prepare_again, with_effects
from cotrace.runs.directory import write_atomically
from cotrace.runs.manifest import add_files, holds
from cotrace.runs.prepare import use_threads
from cotrace.runs.result_files import SHARE, StoredRun, enough
from cotrace.text.escape import json_bytes, visible
from cotrace.text.files import new_file, parse_json, read_text

if TYPE_CHECKING:
    import pandas as pd


def report(
    run: str, *, search: str | None, redact: bool, language: str, out: str | None, quiet: bool, as_json: bool = False
) -> None:
    """Write the report into the run's folder, or to a new file. Raises CotraceError."""
    path = None if out is None else new_file(out)
    content = reports.report_html(report_inputs(run, search=search, redact=redact, language=language))
    if path is None:
        path = Path(run) / (REDACTED if redact else REPORT)
        add_files(path.parent, {path.name: content})
    else:
        write_atomically(path, content)
    _said(Screen(quiet, as_json), "report", path, content, f" ({len(content) / 2**20:.1f} MiB)")


def figure(
    run: str,
    *,
    kind: str,
    form: str,
    k: int | None,
    search: str | None,
    width: str,
    out: str | None,
    quiet: bool,
    as_json: bool = False,
) -> None:
    """Draw one figure and write it to a new file. Raises CotraceError."""
    path = new_file(out or f"{kind}.{form}")
    if out and path.suffix != f".{form}":
        raise InputError(f"{path} does not end in .{form}: name the file after its format, or give --format")
    content = reports.drawn(report_inputs(run, search=search), kind, form, k=k, width=width)
    write_atomically(path, content)
    _said(Screen(quiet, as_json), "figure", path, content)


def _said(screen: Screen, command: str, path: Path, content: bytes, size: str = "") -> None:
    screen.say(f"Written to {path}{size}")
    screen.data(command, lambda: {"written": str(path), "bytes": len(content)})


def open_report(run: str, *, quiet: bool, as_json: bool = False) -> None:
    """Show the report of a run in the browser, written first where there is none. Raises InputError, DamagedRun."""
    screen, path = Screen(quiet, as_json), Path(run) / REPORT
    if not holds(StoredRun.read(run).path, REPORT):
        add_files(path.parent, {REPORT: reports.report_html(report_inputs(run))})
    where = path.resolve().as_uri()
    opened = webbrowser.open(where)
    screen.say(f"Opened {where}" if opened else f"No browser was found; open this in one: {where}")
    screen.data("open", lambda: {"report": where, "opened": opened})


@dataclass(frozen=True)
class Source:
    """The selection of a run that is exported; the model is loaded only by the formats that ask for it."""

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
        model = self.run.config.load_model()
        use_threads(self.run.config, model)
        return model

    def about(self, model: str) -> interchange.About:
        """The question of the run; ``model`` is what the other tool calls the model."""
        config = self.run.config
        known = {"revision": config.revision, "donors": config.donor_words, "align": config.align}
        split = Division(**config.taken_by(Division)).words
        return interchange.About.of(self.frontier, model, positions=config.positions, split=split, **known)


def as_json(source: Source) -> bytes:
    """The selection and its question, as selection.schema.json describes."""
    about = source.about(source.run.config.model)
    return json_bytes(interchange.document(source.selection, about, search=source.frontier.search, rule=source.rule))


def as_mib(source: Source) -> bytes:
    """A circuit of the Mechanistic Interpretability Benchmark, nodes ranked by the frontier."""
    shape, scores = interchange.Shape.of(source.model), interchange.ranking(source.frontier)
    return json_bytes(interchange.circuit(source.selection, source.about(source.run.config.model), shape, scores))


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
    """One row for each size and pair, training pairs first; of a weighted sum one problem after another, each with its
    own effects in its own units. Raises InputError for a metric of the whole set."""
    import pandas as pd

    quiet_libraries()
    found = with_effects(source.run.path, source.frontier)
    goal = prepare_again(source.run.path, source.run.question).goal
    summed = goal.problem if isinstance(goal, Constrained) else goal
    if isinstance(summed, WeightedSum):
        frames = list(_of_terms(summed, found))
    else:
        parts = [("training", goal, found.effects), ("heldout", goal.heldout, found.effects_heldout)]
        frames = [
            found.effects_frame(problem.ids, heldout=part == "heldout").assign(part=part)
            for part, problem, kept in parts
            if problem is not None and kept is not None
        ]
    if not frames:
        raise InputError(
            f"{summed.metric} is one number for the whole set, without an effect of each pair: --format csv has "
            "what there is of each size"
        )
    return frame_csv(pd.concat(frames))


def _of_terms(summed: WeightedSum, frontier: Frontier) -> Iterator[pd.DataFrame]:
    """The effects of every size on the pairs of each summed problem that has some, named as --plus names it."""
    chosen = np.stack([frontier.space.indicator(one.members) for one in frontier])
    masks = torch.from_numpy(chosen).float()
    for weight, term in zip(summed.shares, summed.problems, strict=True):
        for part, problem in (("training", term), ("heldout", term.heldout)):
            effects = None if problem is None else problem.value_and_effects(masks)[1]
            if problem is not None and effects is not None:
                table = replace(frontier, effects=EffectTable.of(chosen, effects.detach().cpu().numpy()))
                name = f"{weight:g}*{term.task}:{term.metric}"
                yield table.effects_frame(problem.ids).assign(part=part, problem=name)


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


@own_threads()
def generated(
    run: str,
    k: int,
    prompts: str,
    sampling: Sampling,
    *,
    donor: str = "zero",
    judge: str | None = None,
    search: str | None = None,
    model: str | None = None,
    out: str | None = None,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Generate, show, judge where asked, and write JSON Lines. Raises CotraceError."""
    screen = Screen(quiet, as_json)
    quiet_libraries()
    reopened = Reopened.read(run, model=model, search=search)
    selection = reopened.selection(k)
    asked = list(read_prompts(Path(prompts)))
    path = new_file(out) if out else _next_free(Path(run) / f"generated-k{k}.jsonl")
    checked_donor(donor)
    if donor.startswith("mean"):
        reopened.task  # noqa: B018  # data is read before the model is loaded
    judged = None if judge is None else load_judge(judge)
    screen.note(f"loading {reopened.config.model}")
    reference = reopened.reference if donor.startswith("mean") else None
    found = generate(reopened.model, asked, selection, donor, reference=reference, sampling=sampling, judge=judged)
    screen.say(found.table())
    if found.scores is not None:
        screen.say(outcome_table("The judge's score, intervals over prompts", [found.scores]))
    write_atomically(path, found.jsonl())
    screen.say(f"Written to {path}")
    screen.data("generate", lambda: {"written": str(path), **found.to_dict()})


def read_prompts(path: Path) -> Iterator[str]:
    """One prompt a line; in a .jsonl file the field ``prompt`` or ``base``. Raises InputError naming the line."""
    if not path.is_file():
        raise InputError(f"there is no file {path}: give a text file with one prompt a line, or JSON Lines")
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty: give one prompt a line")
    for number, line in lines:
        yield _prompt(line, f"{path}:{number}") if path.suffix == ".jsonl" else line


def _prompt(line: str, where: str) -> str:
    record = parse_json(line, where)
    if not isinstance(record, dict):
        raise InputError(f"{where}: not a JSON object with a 'prompt'")
    prompt = record.get("prompt", record.get("base"))
    if not isinstance(prompt, str) or not prompt:
        raise InputError(f"{where}: 'prompt' must be text")
    return prompt


def _next_free(path: Path) -> Path:
    """The path, or with the first number behind it that is free."""
    numbered = (path if n == 1 else path.with_stem(f"{path.stem}-{n}") for n in count(1))
    return next(one for one in numbered if not one.exists())
