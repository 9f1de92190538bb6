"""The record of a run beside its configuration: versions, hashes and sizes, for replays."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import PreTrainedTokenizerBase

from cotrace import __version__
from cotrace.models import LanguageModel
from cotrace.models.loading import stored_types
from cotrace.models.places import PlacedDictionary
from cotrace.runs.config import COMMAND, RunConfig
from cotrace.runs.manifest import donor_origin, origin_of
from cotrace.runs.prepare import Prepared
from cotrace.shipped import model_folder

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
REPEATS = "the same configuration gives the same bytes on this kind of processor, with these versions and threads"
MAY_DIFFER = "some kernels of {device} add in an order that changes: last digits may differ from run to run"


def record(prepared: Prepared) -> dict[str, Any]:
    """Versions, hashes, sizes and the question in words."""
    problem, task = prepared.problem, prepared.task
    return {
        "summary": prepared.goal.summary,
        "metric": prepared.goal.metric,
        "direction": prepared.goal.direction,
        "components": len(problem.space),
        "space": problem.space.outline,
        "pairs_training": problem.size,
        "pairs_searched": problem.searched.size,
        "pairs_heldout": problem.heldout_size,
        "pairs_judged": problem.heldout.size if problem.heldout else 0,
        "pairs_audit": problem.audit_size,
        "pairs_refused": len(problem.refused),
        "pairs_without_donor": dict(problem.coverage.without_donor),
        "pairs_with_shifted_roles": dict(problem.coverage.shifted),
        "data_sha256": task.sha256,
        "data_source": task.source,
        "model": model_record(prepared.config, prepared.model),
        "tokenizer_sha256": tokenizer_sha256(prepared.model.require_tokenizer()),
        "chat_template": None if problem.encoding.template is None else asdict(problem.encoding.template),
        "metric_file": origin_of(prepared.config.metric),
        "donor_file": donor_origin(prepared.config.donors),
        "batch_plan": asdict(problem.packing) | asdict(problem.plan) | problem.batch_plan,
        "threads": torch.get_num_threads(),
        "workers": None if prepared.workers is None else prepared.workers.record,
        "determinism": determinism(prepared.model.device),
        "versions": versions(),
        "platform": platform.platform(),
        "command": list(COMMAND.get()),
    } | _dictionaries_record(problem.model.dictionaries)


def _dictionaries_record(held: Sequence[PlacedDictionary]) -> dict[str, Any]:
    """Return the identity of each dictionary: place, size and hash of its weight file; empty without any."""
    return {"dictionaries": [placed.about for placed in held]} if held else {}


def determinism(device: torch.device) -> str:
    """Return in words what repeats bit for bit on this device."""
    return REPEATS if device.type == "cpu" else MAY_DIFFER.format(device=device.type)


def versions() -> dict[str, str]:
    """Return the versions of cotrace, Python and the libraries that compute."""
    return {"cotrace": __version__, "python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def model_record(asked: RunConfig, model: LanguageModel) -> dict[str, str | None]:
    """Return the identity of the weights: the hub's commit, and the hash of the weight files."""
    config, folder = model.module.config, weights_folder(asked, model)
    return {
        "architecture": type(model.module).__name__,
        "commit": getattr(config, "_commit_hash", None),
        "weights_sha256": None if folder is None else weights_sha256(folder, asked.gguf),
        "weights_stored": None if folder is None or asked.gguf is None else stored_types(folder / asked.gguf),
        "attention": getattr(config, "_attn_implementation", None),
    }


def weights_folder(asked: RunConfig, model: LanguageModel) -> Path | None:
    """Where the weight files are: a local folder, or the hub's copy on this machine; None where there is none."""
    named = asked.model
    folder = Path(model_folder(named))
    commit = getattr(model.module.config, "_commit_hash", None)
    if folder.is_dir() or commit is None:
        return folder if folder.is_dir() else None
    try:
        return Path(snapshot_download(named, revision=commit, local_files_only=True, allow_patterns="*.safetensors"))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def weights_sha256(folder: Path, gguf: str | None = None) -> str:
    """One hash over the names and contents of the folder's safetensors files, or of its GGUF file of that name."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) if gguf is None else [folder / gguf]:
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of how the tokenizer cuts text: its fast form without padding and truncation, or its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    what = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    what = {name: value for name, value in what.items() if backend is None or name not in ("padding", "truncation")}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
