"""A run's folder in Python: ``open_run`` opens a finished one, ``save_run`` writes one, with its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from cotrace import report, shipped
from cotrace.components import ComponentSpace
from cotrace.donors import donor_source
from cotrace.errors import CotraceError, InputError, unknown
from cotrace.evaluation import Evaluation, applied
from cotrace.metrics import metric_named
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.readout import Explanation
from cotrace.readout.explanation_files import NAMES, contents
from cotrace.report import ReportInputs
from cotrace.report.page import EDIT, EXAMPLES, PLAIN, Edited, Examples, Plain
from cotrace.results import Frontier, Table, Tradeoff
from cotrace.runs import RunConfig, RunDirectory
from cotrace.runs.addenda import (
    EVALUATION,
    prepare_again,
    read_evaluation,
    read_explanation,
    read_tradeoff,
    with_effects,
)
from cotrace.runs.config_file import NOT_STORED, RECORD, read_run_config, write_config
from cotrace.runs.directory import Log, write_atomically
from cotrace.runs.manifest import Manifest, holds
from cotrace.runs.prepare import Prepared
from cotrace.runs.provenance import record
from cotrace.runs.result_files import StoredRun, enough
from cotrace.runs.writer import run_files
from cotrace.search import SEARCHES
from cotrace.text import escape
from cotrace.text.escape import visible_json
from cotrace.text.files import read_text


@dataclass(frozen=True)
class Run:
    """A finished run: what was asked, and what was found."""

    path: Path
    """The run's folder."""
    config: RunConfig
    """The question as options; ``direction`` is the one that the run took."""
    frontiers: tuple[Frontier, ...]
    """One for each search, with the effects on every pair that the run kept."""
    evaluation: Evaluation | None
    """How the first search's result was judged; None where it was not."""
    explanation: Explanation | None = None
    """Explanation of one of its sets; None where none was made."""

    @property
    def frontier(self) -> Frontier:
        """The first search's."""
        return self.frontiers[0]

    def of(self, search: str) -> Frontier:
        """The frontier of a search. Raises UnknownName."""
        by_name = {one.search: one for one in self.frontiers}
        if search not in by_name:
            raise unknown("search", search, by_name)
        return by_name[search]

    @cached_property
    def problem(self) -> LanguageProblem:
        """The problem that it was found on: loads data and model, and refuses others than the run's by their hashes.

        Raises CotraceError.
        """
        return prepare_again(self.path, self.config).problem

    def table(self) -> Table:
        """The first search's frontier."""
        return self.frontier.table()

    def __str__(self) -> str:
        return f"{self.path}: {self.frontier.summary}\n{self.table()}"

    def _repr_html_(self) -> str:
        return escape.paragraph(str(self.path)) + self.frontier._repr_html_()


def open_run(folder: str | Path) -> Run:
    """A finished run in a folder that ``cotrace trace`` or ``ct.save_run`` has written; nothing is computed.

    Raises InputError where there is none, DamagedRun where a file is not as it was written.
    """
    stored = StoredRun.read(folder)
    frontiers = tuple(with_effects(stored.path, frontier) for frontier in stored.frontiers)
    judged = read_evaluation(stored.path / EVALUATION) if holds(stored.path, EVALUATION) else None
    told = read_explanation(stored.path / NAMES[0]) if holds(stored.path, NAMES[0]) else None
    return Run(stored.path, stored.question, frontiers, judged, told)


T = TypeVar("T")
REPORT, REDACTED = "report.html", "report-redacted.html"
TRADEOFF = "tradeoff.json"
FROM = (
    "config.yaml",
    "selection.json",
    "effects.safetensors",
    "frontier.csv",
    "masks.safetensors",
    EXAMPLES,
    TRADEOFF,
    NAMES[0],
    PLAIN,
    EDIT,
)
"""Files whose hashes the report shows, with those of the evaluations."""


def figures(
    problem: LanguageProblem,
    frontiers: Sequence[Frontier],
    evaluation: Evaluation | None,
    folder: Path,
    explanation: Explanation | None = None,
) -> dict[str, bytes]:
    """frontier.png with every search, map.png with the selection that is enough, examples.json, and the report."""
    first, examples = frontiers[0], report.examples_of(problem)
    judged = () if evaluation is None else (evaluation,)
    config = config_of(folder)
    inputs = ReportInputs(tuple(frontiers), judged, examples=examples, explanation=explanation, config=config)
    plain = report.plain_of(problem, first, inputs.chosen)
    inputs = replace(inputs, plain=plain)
    return ({} if plain is None else {PLAIN: plain.to_json()}) | {
        EXAMPLES: examples.to_json(),
        "frontier.png": report.to_png(report.frontier(frontiers)),
        "map.png": report.to_png(report.head_map(first, enough(first).k)),
        REPORT: report.report_html(inputs),
    }


def config_of(folder: Path) -> dict[str, Any]:
    """The configuration of a run with its record, as plain data. Raises InputError."""
    config, record = read_run_config(folder)
    stored = {name: value for name, value in asdict(config).items() if name not in NOT_STORED}
    return stored | {RECORD: dict(record)}


def report_inputs(
    run: str | Path, *, search: str | None = None, redact: bool = False, language: str = "en"
) -> ReportInputs:
    """All that a stored run knows of itself; the search that is named comes first. Raises InputError, DamagedRun."""
    stored = StoredRun.read(run)
    first = stored.frontier(search)
    frontiers = (first, *(one for one in stored.frontiers if one is not first))
    return ReportInputs(
        tuple(with_effects(stored.path, one) for one in frontiers),
        tuple(_evaluations(stored.path, first.search)),
        examples=_examples(stored.path),
        tradeoff=_tradeoff(stored.path),
        explanation=_explanation(stored.path),
        config=config_of(stored.path),
        hashes=_hashes(stored.path),
        redact=redact,
        plain=_read(stored.path, PLAIN, Plain.from_json),
        edited=_read(stored.path, EDIT, Edited.from_json),
        language=language,
    )


def _evaluations(folder: Path, search: str) -> Iterator[Evaluation]:
    """evaluation.json first, then the others; those of another search behind those of the one that is shown."""
    listed = {name for name in Manifest.read(folder).files if fnmatch(name, "evaluation-*.json")}
    others = listed | {path.name for path in folder.glob("evaluation-*.json")}
    found = [read_evaluation(folder / name) for name in (EVALUATION, *sorted(others)) if holds(folder, name)]
    yield from (one for one in found if one.search == search)
    yield from (one for one in found if one.search != search)


def _examples(folder: Path) -> Examples | None:
    path = folder / EXAMPLES
    if not holds(folder, EXAMPLES):
        return None
    return Examples.from_json(read_text(path).encode(), str(path))


def _read(folder: Path, name: str, read: Callable[[str, str], T]) -> T | None:
    """Return the content of a file of the run; None where it is not there."""
    return read(read_text(folder / name), str(folder / name)) if holds(folder, name) else None


def _tradeoff(folder: Path) -> Tradeoff | None:
    return read_tradeoff(folder / TRADEOFF) if holds(folder, TRADEOFF) else None


def _explanation(folder: Path) -> Explanation | None:
    return read_explanation(folder / NAMES[0]) if holds(folder, NAMES[0]) else None


def _hashes(folder: Path) -> dict[str, str]:
    manifest = Manifest.read(folder)
    names = [name for name in manifest.files if name in FROM or name.startswith("evaluation")]
    manifest.check(names)
    return {name: manifest.files[name].sha256 for name in names}


LATER = "the run could not be opened with its model again"


def save_run(
    folder: str | Path,
    problem: LanguageProblem,
    found: Frontier | Sequence[Frontier],
    evaluation: Evaluation | None = None,
    explanation: Explanation | None = None,
    *,
    search_options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a new run folder, as ``cotrace trace`` does: report, verify, evaluate, export and the others take it.

    The pairs go into it as a JSON Lines file of their own, so that it can be opened wherever the model is; the first
    search's sets get the intervals and p-values of ``evaluation``; ``explanation`` is of one of them.
    ``search_options``: the searches' own settings by name, which a frontier does not say, for a replay. Gives the
    path. Raises InputError where frontier and problem do not belong together, or donors, metric or model have no name
    by which they are found again; OutputExists.
    """
    frontiers = [found] if isinstance(found, Frontier) else list(found)
    _check(problem, frontiers)
    _check_explained(problem, explanation)
    directory, name = RunDirectory.claim(folder), _pairs_name(problem.task)
    if evaluation is not None:
        frontiers[0] = applied(frontiers[0], evaluation)
    config = _config(problem, frontiers, name, search_options or {})
    pairs = _pairs(problem.source_task)
    prepared = Prepared(config, problem.source_task, problem.model, problem, ())
    with directory.begun(write_config(config, record(prepared))) as path:
        write_atomically(path / name, pairs)
        files = run_files(frontiers, [], evaluation) | figures(problem, frontiers, evaluation, path, explanation)
        files |= {} if explanation is None else contents(explanation)
        RunDirectory(path).write(files)
        Log(path).say("written from Python")
        Manifest.of(path).write()
    return path


def _check(problem: LanguageProblem, frontiers: Sequence[Frontier]) -> None:
    """Raise InputError unless all are of this problem."""
    if not frontiers:
        raise InputError("save_run: there is no frontier; give one, or several of one problem")
    for one in frontiers:
        own = (problem.space.components, problem.mode, problem.metric, problem.task)
        if (one.space.components, one.mode, one.metric, one.task) != own:
            raise InputError(
                f"save_run: the frontier of {one.search} is of {one.metric} on {one.task} over {one.space.outline}, "
                f"and the problem of {problem.metric} on {problem.task} over {problem.space.outline}: give the problem "
                "that it was found on"
            )


def _check_explained(problem: LanguageProblem, explanation: Explanation | None) -> None:
    """Raise InputError where the explanation is of another model, task or space."""
    if explanation is None:
        return
    own, given = (problem.model.name, problem.task), (explanation.model, explanation.task)
    strange = next((name for name in explanation.components if name not in problem.space.names), None)
    if given != own or strange is not None:
        what = f"{strange} on {given[1]}" if strange else f"{given[0]} on {given[1]}"
        raise InputError(
            f"save_run: the explanation is of {what}, and the problem is of {own[0]} on {own[1]} over "
            f"{problem.space.outline}: give ct.explain of this problem"
        )


def _config(
    problem: LanguageProblem, frontiers: Sequence[Frontier], task: str, options: Mapping[str, Mapping[str, Any]]
) -> RunConfig:
    """The problem's question as options. Raises InputError for what has no name."""
    question, data, target = problem.question, problem.source_task, problem.target
    own = {**problem.manner, **asdict(problem.division), "align": question["align"], "positions": question["positions"]}
    return RunConfig(
        **{name: own[name] for name in own.keys() & RunConfig.__dataclass_fields__.keys()},
        model=_model_name(problem.model),
        revision=problem.model.revision,
        dtype=cast("Any", str(problem.model.dtype).removeprefix("torch.")),
        device=str(problem.model.device),
        task=task,
        task_options={"score": data.score, "encoding": data.encoding},
        sites=_sites(problem.model, problem.space),
        donors=_named("donors", str(question["donors"]), donor_source),
        metric=_named("metric", problem.metric_name, metric_named),
        mode=problem.mode,
        direction=frontiers[0].direction if target is None else f"target={target!r}",
        template_options=dict(own["template_arguments"] or {}),
        searches=tuple(one.search for one in frontiers if one.search in SEARCHES),
        search_options={name: dict(settings) for name, settings in options.items()},
        max_size=max(one.sizes[-1] for one in frontiers),
    )


def _named(what: str, words: str, read: Any) -> str:
    """The words, where they say it all. Raises InputError."""
    try:
        read(words)
    except CotraceError:
        raise InputError(
            f"save_run: {what} {words!r} has no name by which it is found again, so {LATER}: give {what} as on the "
            "command line, or keep the frontier alone with frontier.save"
        ) from None
    return words


def _model_name(model: LanguageModel) -> str:
    """Where the model is loaded from: a folder, or its id. Raises InputError for one that exists in memory only."""
    named = str(getattr(model.module.config, "name_or_path", "") or "")
    if not named:
        raise InputError(
            f"save_run: {model.name} was made in memory, so {LATER}: save it with model.module.save_pretrained and "
            "ct.load_model it, or keep the frontier alone with frontier.save"
        )
    path = Path(named)
    if path.is_dir() and path.resolve() == Path(shipped.model_folder(shipped.NAME)).resolve():
        return shipped.NAME
    return str(path.resolve()) if path.is_dir() else named


def _sites(model: LanguageModel, space: ComponentSpace) -> tuple[str, ...]:
    """Whole sites by their names; any other space component by component."""
    roles = list(dict.fromkeys(component.role for component in space))
    if model.space(space.sites, roles).components == space.components:
        behind = [""] if roles == ["all"] else [f"@{role}" for role in roles]
        return tuple(f"{site.value}{role}" for site in space.sites for role in behind)
    return tuple(space.names)


def _pairs_name(task: str) -> str:
    """A file name that says which data these are."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', task).strip('-')[:80] or 'pairs'}.jsonl"


def _pairs(task: Task) -> bytes:
    """The pairs as JSON Lines, which read back the same. Raises InputError where they would not."""
    empty: tuple[Any, ...] = (None, (), {}, "")
    rows = [{name: value for name, value in asdict(pair).items() if value not in empty} for pair in task.pairs]
    content = "".join(visible_json(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows).encode()
    again = replace(Task.from_records(json.loads(line) for line in content.splitlines()), **_scored(task))
    if again.sha256 != task.sha256:
        raise InputError(
            f"save_run: the pairs of {task.name} do not read back from JSON Lines as they are, so {LATER}: keep the "
            "frontier alone with frontier.save"
        )
    return content


def _scored(task: Task) -> dict[str, Any]:
    return {"score": task.score, "encoding": task.encoding}
