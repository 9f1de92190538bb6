"""Additions to a finished run, and the evidence that evaluations of it start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cotrace.errors import InputError
from cotrace.evaluation import Evaluation
from cotrace.models import LanguageModel
from cotrace.prompts import Task
from cotrace.readout import Explanation
from cotrace.results import Frontier, Tradeoff
from cotrace.results.effects import EffectTable
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import read_run_config
from cotrace.runs.manifest import add_files, holds, remedy
from cotrace.runs.prepare import Prepared, prepare
from cotrace.runs.provenance import model_record, record
from cotrace.text.escape import json_bytes
from cotrace.text.files import clipped, parse_json, read_text

NO_SUCH_TYPE = (KeyError, TypeError, AttributeError)
"""Errors of the library for number types that numpy lacks, such as bfloat16."""


def arrays_of(content: bytes) -> dict[str, Any]:
    """Name -> array. Raises ValueError."""
    try:
        return dict(load(content))
    except (SafetensorError, *NO_SUCH_TYPE) as error:
        raise ValueError(f"it holds no arrays that can be read: {error}") from None


EFFECTS = "effects.safetensors"
EVALUATION = "evaluation.json"
HASHED = (
    ("tokenizer", "tokenizer_sha256"),
    ("chat template", "chat_template"),
    ("metric", "metric_file"),
    ("donor", "donor_file"),
    ("dictionaries", "dictionaries"),
)
"""Inputs that the record has a hash of, and its key."""
AUDIT = "evaluation-audit.json"
"""Its being there says that the audit pairs have been used."""


def effects_safetensors(frontiers: Sequence[Frontier]) -> bytes:
    """For each search ``SEARCH.training`` and ``SEARCH.heldout``: sets as packed bits, and effects [set, example]."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for frontier in frontiers:
        for part, table in (("training", frontier.effects), ("heldout", frontier.effects_heldout)):
            if table is not None:
                arrays |= table.to_arrays(f"{frontier.search}.{part}")
    about = {"schema": 1, "components": frontiers[0].space.names}
    return bytes(save(arrays, {"cotrace": json.dumps(about)}))


def with_effects(folder: Path, frontier: Frontier) -> Frontier:
    """The frontier with the effects that the run kept, where it did. Raises DamagedRun for a damaged file."""
    path = folder / EFFECTS
    if not holds(folder, EFFECTS):
        return frontier
    n, search = len(frontier.space), frontier.search
    try:
        arrays = arrays_of(path.read_bytes())
        seen, unseen = (EffectTable.from_arrays(n, f"{search}.{part}", arrays) for part in ("training", "heldout"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not what a run writes ({error}); {remedy(folder)}") from None
    return replace(frontier, effects=seen, effects_heldout=unseen)


def evaluation_json(evaluation: Evaluation) -> bytes:
    """An evaluation as JSON, its verdict with it."""
    data = {"schema": 1, **evaluation.to_dict()}
    return json_bytes(data)


def store_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write it into the run's folder: ``evaluation.json``, or ``evaluation-audit.json`` for the audit."""
    path = folder / (AUDIT if evaluation.judged_on == "audit" else EVALUATION)
    add_files(folder, {path.name: evaluation_json(evaluation)})
    return path


def check_audit_unused(folder: Path) -> None:
    """Raise InputError where the audit pairs have been looked at, DamagedRun where their figures are gone."""
    if holds(folder, AUDIT):
        raise InputError(
            f"the audit pairs of {folder} have been used: their figures are in {folder / AUDIT}, and a second look "
            "would be a choice; for another audit trace again on new data"
        )


def check_same(folder: Path, prepared: Prepared) -> None:
    """Raise InputError where data, model, tokenizer or metric are not those that the run records, by their hashes."""
    stored, now = read_run_config(folder)[1], record(prepared)
    check_same_data(folder, prepared.task)
    check_same_model(folder, prepared.config, prepared.model)
    for what, field in HASHED:
        if _hash_of(stored.get(field)) != _hash_of(now.get(field)):
            raise InputError(
                f"the {what} differs from that of {folder}: sha256 {_short(_hash_of(now[field]))}, the run had "
                f"{_short(_hash_of(stored.get(field)))}; restore it, or trace again"
            )


def prepare_again(folder: Path, config: RunConfig) -> Prepared:
    """All that a stored run needs, the same as then: its data are read and compared before its model is loaded.

    Raises CotraceError.
    """
    prepared = prepare(config, check=partial(check_same_data, folder))
    check_same(folder, prepared)
    return prepared


def check_same_data(folder: Path, task: Task) -> None:
    """Raise InputError where the data are not those that the run records, by their hash."""
    was, now = read_run_config(folder)[1].get("data_sha256"), task.sha256
    if was != now:
        raise InputError(
            f"the data differ from those of {folder}: sha256 {_short(now)}, the run had {_short(was)}; restore the "
            "file, or trace again"
        )


def check_same_model(folder: Path, config: RunConfig, model: LanguageModel) -> None:
    """Raise InputError where the model is not the one that the run records, by its hashes."""
    was: Mapping[str, Any] = read_run_config(folder)[1].get("model") or {}
    now = model_record(config, model)
    for field in ("architecture", "weights_sha256", "commit"):
        if was.get(field) != now[field]:
            raise InputError(
                f"the model differs from that of {folder}: {field} is {_short(now[field])}, the run had "
                f"{_short(was.get(field))}; give the same model, or trace again"
            )


def _hash_of(entry: object) -> object:
    """The hash itself, or that of a file's entry: its path and the state of its repository do not matter."""
    if isinstance(entry, list):
        return ", ".join(str(_hash_of(one)) for one in entry)
    return entry.get("sha256") if isinstance(entry, dict) else entry


def _short(value: object) -> str:
    return str(value)[:12]


Found = TypeVar("Found")


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in a file. Raises InputError."""
    found = _read(path, lambda data: Evaluation.from_dict(_without_schema(data)), "evaluate")
    if found.k not in [row.k for row in found.sizes]:
        raise _other(path, f"k is {found.k}, which is none of its sizes", "evaluate")
    return found


def read_explanation(path: Path) -> Explanation:
    """The explanation in a file. Raises InputError."""
    found = _read(path, Explanation.from_dict, "explain")
    if not found.cards:
        raise _other(path, "it holds no member", "explain")
    return found


def read_tradeoff(path: Path) -> Tradeoff:
    """The trade-off in a file. Raises InputError."""
    found = _read(path, Tradeoff.from_dict, "edit")
    if not found.points:
        raise _other(path, "it holds no edit", "edit")
    return found


def _read(path: Path, parse: Callable[[dict[str, Any]], Found], command: str) -> Found:
    try:
        data = parse_json(read_text(path), path.name)
    except InputError as error:
        raise _other(path, str(error), command) from None
    if not isinstance(data, dict):
        raise _other(path, f"it is a {type(data).__name__}, not an object", command)
    try:
        return parse(data)
    except ValueError as error:
        raise _other(path, str(error), command) from None


def _without_schema(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "schema"}


def _other(path: Path, why: str, command: str) -> InputError:
    return InputError(f"{path} is not what cotrace {command} writes ({clipped(why)}); {command} again")
