"""The record of a run: what was found out by running it, beside the configuration, for whoever replays it."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cotrace import __version__
from cotrace.runs.prepare import SHIPPED, Prepared
from cotrace.shipped import MODEL

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def record(prepared: Prepared) -> dict[str, Any]:
    """Versions, hashes, sizes and the question in words."""
    problem, task = prepared.problem, prepared.task
    return {
        "summary": problem.summary,
        "metric": problem.metric,
        "direction": problem.direction,
        "components": len(problem.space),
        "space": problem.space.outline,
        "pairs_searched": problem.size,
        "pairs_heldout": problem.heldout.size if problem.heldout else 0,
        "pairs_refused": len(problem.refused),
        "data_sha256": task.sha256,
        "model": model_record(prepared),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of cotrace, Python and the libraries that compute."""
    return {"cotrace": __version__, "python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def model_record(prepared: Prepared) -> dict[str, str | None]:
    """What identifies the weights: the hub's commit, or the hash of a local folder's weight files."""
    config = prepared.model.module.config
    folder = MODEL if prepared.config.model == SHIPPED else Path(prepared.config.model)
    return {
        "architecture": type(prepared.model.module).__name__,
        "commit": getattr(config, "_commit_hash", None),
        "weights_sha256": weights_sha256(folder) if folder.is_dir() else None,
        "attention": getattr(config, "_attn_implementation", None),
    }


def weights_sha256(folder: Path) -> str:
    """One hash over the names and contents of the folder's safetensors files."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
