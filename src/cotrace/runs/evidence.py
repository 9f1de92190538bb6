"""What a run keeps for whoever judges it: per-example effects evaluations, and whether a problem is still its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from cotrace.errors import InputError
from cotrace.evaluation import Evaluation
from cotrace.results import Frontier, Selection
from cotrace.results.effects import EffectTable
from cotrace.runs.config_file import RECORD
from cotrace.runs.directory import write_atomically
from cotrace.runs.prepare import Prepared
from cotrace.runs.record import record

EFFECTS = "effects.safetensors"
EVALUATION = "evaluation.json"
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
    """The frontier with the effects that the run kept, where it did. Raises InputError for a damaged file."""
    path = folder / EFFECTS
    if not path.is_file():
        return frontier
    try:
        arrays: Mapping[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it to have the effects computed again") from None
    n, search = len(frontier.space), frontier.search
    return replace(
        frontier,
        effects=EffectTable.from_arrays(n, f"{search}.training", arrays),
        effects_heldout=EffectTable.from_arrays(n, f"{search}.heldout", arrays),
    )


def evaluation_json(evaluation: Evaluation) -> bytes:
    """An evaluation as JSON, its verdict with it."""
    data = {"schema": 1, **evaluation.to_dict()}
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def store_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Write it into the run's folder: ``evaluation.json``, or ``evaluation-audit.json`` for the audit."""
    path = folder / (AUDIT if evaluation.judged_on == "audit" else EVALUATION)
    write_atomically(path, evaluation_json(evaluation))
    return path


def check_audit_unused(folder: Path) -> None:
    """Raise InputError where the audit pairs have been looked at: they give final figures once."""
    if (folder / AUDIT).exists():
        raise InputError(
            f"the audit pairs of {folder} have been used: their figures are in {folder / AUDIT}, and a second look "
            "would be a choice; for another audit trace again on new data"
        )


def check_same(folder: Path, prepared: Prepared) -> None:
    """Raise InputError where the model or the data are not those that the run records, by their hashes."""
    stored, now = _stored_record(folder), record(prepared)
    if stored.get("data_sha256") != now["data_sha256"]:
        raise InputError(
            f"the data differ from those of {folder}: sha256 {_short(now['data_sha256'])}, the run had "
            f"{_short(stored.get('data_sha256'))}; restore the file, or trace again"
        )
    was: Mapping[str, Any] = stored.get("model") or {}
    for field in ("architecture", "weights_sha256", "commit"):
        if was.get(field) != now["model"][field]:
            raise InputError(
                f"the model differs from that of {folder}: {field} is {_short(now['model'][field])}, the run had "
                f"{_short(was.get(field))}; give the same model, or trace again"
            )


def _stored_record(folder: Path) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {folder / 'config.yaml'}: {error}") from None
    found = data.get(RECORD) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{folder / 'config.yaml'} holds no record of the run: trace again")
    return found


def _short(value: object) -> str:
    return str(value)[:12]


def read_selection(path: str | Path) -> Selection:
    """Component names from a file: JSON (a list, or an object with ``components``), or words. Raises InputError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None
    names = _names(text, str(path))
    if not names:
        raise InputError(f"{path} names no component: write them as L9.head6, one a line or separated by spaces")
    return Selection.parse(names)


def _names(text: str, path: str) -> list[str]:
    if text.lstrip()[:1] not in ("[", "{"):
        lines = (line.split("#")[0] for line in text.splitlines())
        return [word for line in lines for word in line.replace(",", " ").split()]
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if isinstance(data, dict):
        chosen = data.get("chosen")
        data = data.get("components", chosen.get("components") if isinstance(chosen, dict) else None)
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise InputError(f"{path}: give a list of component names, or an object whose 'components' is one")
    return data
