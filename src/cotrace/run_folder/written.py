"""``save_run``: the folder that ``cotrace trace`` writes, from a problem of Python's own and what was found on it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from cotrace import shipped
from cotrace.components import ComponentSpace
from cotrace.donors import donor_source
from cotrace.errors import CotraceError, InputError
from cotrace.evaluation import Evaluation, applied
from cotrace.metrics import metric_named
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.readout import Explanation
from cotrace.readout.files import contents
from cotrace.results import Frontier
from cotrace.run_folder.pictures import figures
from cotrace.runs import RunConfig, RunDirectory
from cotrace.runs.config_file import write_config
from cotrace.runs.directory import write_atomically
from cotrace.runs.log import Log
from cotrace.runs.manifest import Manifest
from cotrace.runs.prepare import Prepared
from cotrace.runs.record import record
from cotrace.runs.write import run_files
from cotrace.search import SEARCHES
from cotrace.visible import visible_json

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
    question, manner, division, data = problem.question, problem.manner, problem.division, problem.source_task
    target = problem.target
    return RunConfig(
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
        align=question["align"],
        positions=question["positions"],
        prepend_bos=manner["prepend_bos"],
        template_options=dict(manner["template_arguments"] or {}),
        holdout=float(division.holdout),
        audit=float(division.audit),
        split_by=division.split_by,
        search_pairs=division.search_pairs,
        seed=division.seed,
        batch_tokens=manner["batch_tokens"],
        memory=manner["memory"],
        checkpointing=manner["checkpointing"],
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
