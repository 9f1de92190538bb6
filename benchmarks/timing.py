"""Timing several versions of one thing in turn, so that what the machine does meanwhile hits all alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Version = Callable[[], Any]
Clock = Callable[[], float]


def interleaved(
    versions: Mapping[str, Version], rounds: int, warmup: int = 1, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each version over ``rounds`` rounds, one call of each per round.

    ``clock``: ``time.process_time`` for one thread on a busy machine.
    """
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for turn in range(warmup + rounds):
        for name, version in versions.items():
            elapsed = timed(version, clock)
            if turn >= warmup:
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(version: Version, clock: Clock = time.perf_counter) -> float:
    """Seconds of one call; a CUDA device is waited for."""
    _wait()
    start = clock()
    version()
    _wait()
    return clock() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_cases(path: str | Path | None, cases: list[dict[str, Any]]) -> None:
    """The figures as JSON, where a path is given."""
    if path is not None:
        Path(path).write_text(json.dumps({"cases": cases}, indent=2) + "\n")
