"""Jobs: whole functions run side by side on Ray, each in a process of its own; lost ones are run again."""

from __future__ import annotations

import os
import platform
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotrace.errors import InputError, first_line
from cotrace.workers.cluster import (
    MAX_RESTARTS,
    Needs,
    cause_of,
    check_asked,
    first_ready,
    join,
    ray_module,
    too_many_lost,
)
from cotrace.workers.worker import check_versions, versions

Job = Callable[[], str]
"""Function to run: it answers with a line of what went wrong, empty where nothing did."""
TRIES = 3
"""Times that a job's process may be lost before the job itself is taken for the reason."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """How many jobs run at once, and where."""

    count: int
    ray_address: str | None = None
    max_restarts: int = MAX_RESTARTS
    threads: int = 1
    """Most threads of each job."""


def side_by_side(jobs: Mapping[str, Job], side: Side, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and answer of each job as they finish; they write to a folder that all can reach.

    A job whose process or node is lost is begun again; one that was lost ``TRIES`` times answers with that. Raises what
    a job raises; WorkersError, InputError.
    """
    check_asked(side.count, 0, side.max_restarts)
    cluster, ray = join(side.ray_address, Needs(side.count, side.threads)), ray_module()
    begin = ray.remote(_run).options(num_cpus=side.threads, max_retries=0)
    waiting, flying, lost = deque(jobs), dict[Any, str](), Counter[str]()
    try:
        while waiting or flying:
            while waiting and len(flying) < side.count:
                name = waiting.popleft()
                flying[begin.remote(jobs[name], versions(), side.threads, folder.absolute())] = name
            for ref in first_ready(ray, list(flying)):
                name = flying.pop(ref)
                if (answer := _answer(ray, ref, name, lost, side)) is None:
                    waiting.append(name)
                else:
                    yield name, answer
    finally:
        for ref in flying:
            ray.cancel(ref, force=True)
        if cluster.begun:
            ray.shutdown()


def _answer(ray: Any, ref: Any, name: str, lost: Counter[str], side: Side) -> str | None:
    """Return a job's answer; None where its process was lost and it is to be run again. Raises WorkersError."""
    try:
        return str(ray.get(ref))
    except ray.exceptions.RayTaskError as error:
        raise cause_of(error) from None
    except ray.exceptions.RayError as error:
        lost[name] += 1
        if lost.total() > side.max_restarts:
            raise too_many_lost(lost.total(), side.max_restarts, error, "say the same again") from None
        again = f"its process was lost {TRIES} times, the last time as: {first_line(error)}"
        return None if lost[name] < TRIES else again


def _run(job: Job, expected: Mapping[str, str], threads: int, folder: Path) -> str:
    """One job, in the process of a worker. Raises InputError, WorkersError."""
    import torch

    check_versions({"versions": versions(), "node": platform.node()}, expected)
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"worker on {platform.node()}: {folder} cannot be written to; name one that all machines share"
        )
    torch.set_num_threads(threads)
    return job()
