"""Cluster: Ray joined or begun, what is refused, what its errors mean, and whole functions run side by side on it."""

from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotrace.errors import CotraceError, InputError, WorkersError, first_line

MAX_RESTARTS = 10
"""Workers that may be lost and begun again in a run, unless the user says otherwise."""
START_S = 300.0
"""Seconds in which some worker must have begun."""
ANSWER_S = 8.0
"""Seconds in which whoever is at an address must answer: with the start of the command line, ten."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed|killed due to memory pressure",
}
"""Ray, begun here, reports its use to nobody, warns of no GPUs that nobody asked for, waits for busy machines, and does
not print on standard output that a worker was lost, which is said, or done again, by whoever gave it work."""


@dataclass(frozen=True)
class Needs:
    """Resources that the workers take of a cluster."""

    workers: int
    cpus: int
    """Processors of each worker."""
    gpus: float = 0
    """GPUs of each worker: a share of one, one, or several for a model larger than one."""


@dataclass(frozen=True)
class Cluster:
    """Ray as it was joined."""

    nodes: int
    dashboard: str
    begun: bool
    """Whether it was begun for these workers, and ends with them."""


def ray_module() -> Any:
    """Ray, imported now. Raises InputError where it is not installed."""
    for name, value in SETTINGS.items():  # some are read when Ray is imported, and never again
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise InputError(
            "workers run on Ray, which is not installed: pip install 'cotrace[ray]', or leave workers out"
        ) from None
    return ray


def join(address: str | None, needs: Needs) -> Cluster:
    """Join the cluster at an address, the one joined already, or begin one here. Raises InputError, WorkersError."""
    ray = ray_module()
    begun = not ray.is_initialized()
    if begun:
        _begin(ray, address, needs)
    try:
        check_resources(ray.cluster_resources(), needs)
    except WorkersError:
        if begun:
            ray.shutdown()
        raise
    alive = [node for node in ray.nodes() if node["Alive"]]
    url = getattr(ray._private.worker.global_worker.node, "webui_url", "")  # noqa: SLF001
    return Cluster(len(alive), f"http://{url}" if url else "", begun)


def _begin(ray: Any, address: str | None, needs: Needs) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options["address"] = "local"  # unless told, Ray would join another's cluster on this machine
        options["num_cpus"] = max(os.cpu_count() or 1, needs.workers * needs.cpus)
    else:
        check_address(address)
        options["address"] = address
    try:
        with _surroundings():
            ray.init(**options)
    except Exception as error:  # Ray raises no class of its own here
        where = "Ray cannot begin here" if address is None else f"the cluster at {address} cannot be joined"
        raise WorkersError(f"{where}: {first_line(error)}; see `ray status`, or leave ray and workers out") from None


def check_address(address: str) -> None:
    """Ask, by Ray's own command, whether a cluster answers there. Raises InputError, WorkersError."""
    if "://" in address:
        raise InputError(
            f"ray address {address!r}: a client's connection carries no batches; run on a machine of the cluster and "
            "give its head as HOST:PORT, or auto"
        )
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    try:
        done = subprocess.run(command, capture_output=True, timeout=ANSWER_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        raise WorkersError(
            f"no Ray cluster answers at {address} within {ANSWER_S:.0f} s: check the address (`ray status` on its head "
            "prints it), begin one with `ray start --head`, or leave ray out to begin one here"
        )


def check_resources(has: Mapping[str, float], needs: Needs) -> None:
    """Raise WorkersError where the whole cluster has less than the workers need."""
    for kind, each in (("GPU", needs.gpus), ("CPU", float(needs.cpus))):
        total, wanted = has.get(kind, 0.0), needs.workers * each
        if wanted > total:
            fewer = int(total // each)
            remedy = f"at most {fewer} workers" if fewer else f"workers with fewer {kind}s, or machines that have them"
            raise WorkersError(
                f"{needs.workers} workers of {each:g} {kind}{'s' * (each != 1)} need {wanted:g}, and the cluster has "
                f"{total:g}: give {remedy}"
            )


@contextmanager
def _surroundings() -> Iterator[None]:
    """Ray begins quietly, and the signals go on to whoever had them: Ray would end the process itself."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update({name: value for name, value in SETTINGS.items() if before[name] is None})
    logging.getLogger("ray").setLevel(logging.ERROR)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def check_asked(workers: int, gpus: float, max_restarts: int) -> None:
    """Raise InputError for numbers of workers, GPUs or restarts that cannot be."""
    if workers < 1:
        raise InputError(f"workers is {workers}: give at least 1")
    if not gpus >= 0 or (gpus > 1 and gpus != int(gpus)) or gpus == float("inf"):
        raise InputError(f"GPUs of a worker are {gpus:g}: give a share of one such as 0.25, or a whole number")
    if max_restarts < 0:
        raise InputError(f"max_restarts is {max_restarts}: give 0 or more")


def first_ready(ray: Any, refs: Sequence[Any]) -> list[Any]:
    """Return the batches that finish first; empty where that takes longer than a worker may take to begin."""
    try:
        ready, _ = ray.wait(refs, num_returns=1, timeout=START_S)
    except SystemError as error:  # a signal that came while Ray waited: what its handler raised is the cause
        raise error.__cause__ or error from None
    return list(ready)


@contextmanager
def full_store(ray: Any) -> Iterator[None]:
    """Ray's object store may have no room, in memory or on disk."""
    try:
        yield
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise _store_full(error) from None


def _store_full(error: BaseException) -> WorkersError:
    return WorkersError(
        f"Ray's object store is full ({first_line(error)}): give it more (`ray start --object-store-memory`), or free "
        "the disk that it spills to; nothing was half-written, go on with `cotrace resume`"
    )


def cause_of(error: Any) -> BaseException:
    """Return the error of a batch as it would have been raised here."""
    cause, ray = getattr(error, "cause", None), ray_module()
    if isinstance(cause, (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError)):
        return _store_full(cause)
    if isinstance(cause, CotraceError):
        return cause
    return error if not isinstance(cause, BaseException) else cause


def too_many_lost(lost: int, most: int, error: BaseException, remedy: str) -> WorkersError:
    """More workers were lost than may be begun again."""
    return WorkersError(
        f"{lost} workers were lost (the last: {first_line(error)}) and max_restarts is {most}: what is done is kept, "
        f"{remedy}, with fewer workers or more max_restarts"
    )


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
    from cotrace.workers.worker import versions

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

    from cotrace.workers.worker import check_versions, versions

    check_versions({"versions": versions(), "node": platform.node()}, expected)
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"worker on {platform.node()}: {folder} cannot be written to; name one that all machines share"
        )
    torch.set_num_threads(threads)
    return job()
