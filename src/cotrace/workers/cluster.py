"""Cluster: Ray joined or begun, what it has, and what is refused before anything is computed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cotrace.errors import InputError, WorkersError

ANSWER_S = 8.0
"""Seconds in which whoever is at an address must answer: with the start of the command line, ten."""
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "180",
}
"""Ray, begun here, reports its use to nobody, warns of no GPUs that nobody asked for, and waits for busy machines."""


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
        raise WorkersError(f"{where}: {_first_line(error)}; see `ray status`, or leave ray and workers out") from None


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
