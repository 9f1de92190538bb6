"""The identity of a run: one hash of its question, whatever it is called and however it is cut."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from cotrace.runs.config import RunConfig

WORKERS = ("workers", "ray", "worker_gpus", "max_restarts")
"""Who computes: results are the same whoever does."""
NOT_IN_IDENTITY = (
    *("out", "threads", "batch_tokens", "checkpoint_every_s", "trust_remote_code", "offload_folder"),
    *WORKERS,
)
"""Fields that do not change the question."""


def identity(config: RunConfig) -> str:
    """Hash of the question: a checkpoint of another one is not taken up."""
    asked = {name: value for name, value in asdict(config).items() if name not in NOT_IN_IDENTITY}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
