"""Losses: runs on workers in which a worker, a node or the driver is killed at random, compared byte by byte.

``python -m benchmarks.losses --workers 50 --nodes 10 --drivers 10`` counts how many end in the bytes of an undisturbed
run in one process. Each is a whole ``cotrace trace``. Runs of one kind share one Ray and, but for drivers, the workers.
Nodes are those of Ray's own cluster utilities, on this machine: one for the driver, one that dies and is followed by
another. A driver that dies is a process of its own; what it began is resumed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.equality import OBJECT_STORE, SAME, ray_here
from tests.faults.harness import Commands, kill_after

ASKED = (
    "trace",
    "--model",
    "shipped",
    "--task",
    "demo_conflict",
    "--max-size",
    "4",
    "--batch-tokens",
    "512",
    "--quiet",
)
WORKERS = ("--workers", "2", "--max-restarts", "1000")
LEFT_S = 30.0
"""Seconds after a driver's death in which its workers must have ended."""


@dataclass
class Count:
    """What became of the runs of one kind."""

    kind: str
    runs: int = 0
    hit: int = 0
    """Runs that were going on when something was killed."""
    lost: int = 0
    """Workers that were lost and begun again, or drivers that were resumed."""
    same: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def words(self) -> str:
        """In one line."""
        mean = sum(self.seconds) / max(1, len(self.seconds))
        return (
            f"{self.kind}: {self.runs} runs, {self.hit} hit, {self.lost} losses noticed, {self.same} with the same "
            f"bytes, {mean:.1f} s each"
        )


def run_here(*arguments: str) -> None:
    """A command line in this process. Raises SystemExit where it fails."""
    from cotrace.cli.main import run

    if code := run([*arguments]):
        sys.exit(f"{' '.join(arguments)} ended with code {code}")


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same results, byte by byte."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in SAME)


def replicas() -> list[psutil.Process]:
    """Workers of a Ray that this process has begun."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [one] if "ray::Replica" in " ".join(one.cmdline()) else []
    return found


@contextmanager
def struck(after_s: float, strike: Callable[[], None]) -> Iterator[list[bool]]:
    """Something that happens after a while, unless all is over by then: whether it did."""
    hit: list[bool] = []
    over = threading.Event()

    def wait() -> None:
        if not over.wait(after_s):
            hit.append(True)
            strike()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()


def crew_restarts() -> int:
    """Workers lost so far of those that all runs share."""
    from cotrace.runs.prepare import CREW

    return sum(workers.restarts for workers in (CREW.get() or {}).values())


def disturbed(
    count: Count,
    runs: int,
    folder: Path,
    draw: random.Random,
    strike: Callable[[], None],
    renew: Callable[[], None] = lambda: None,
) -> Count:
    """Runs in this process during which something is killed, after one that only says how long they take."""
    from cotrace.runs.prepare import one_crew

    with one_crew():
        run_here(*ASKED, *WORKERS, "--out", str(folder / f"{count.kind}-begin"))  # the workers load
        began = time.monotonic()
        run_here(*ASKED, *WORKERS, "--out", str(folder / f"{count.kind}-life"))
        life_s = time.monotonic() - began
        for i in range(runs):
            out, before, began = folder / f"{count.kind}-{i}", crew_restarts(), time.monotonic()
            with struck(draw.uniform(0, life_s), strike) as hit:
                run_here(*ASKED, *WORKERS, "--out", str(out))
            if hit:
                renew()
            noted(count, out, folder / "whole", began, hit=bool(hit), lost=crew_restarts() - before)
    return count


def noted(count: Count, out: Path, whole: Path, began: float, *, hit: bool, lost: int) -> None:
    """Count a run that has ended, and say where all stands."""
    count.runs, count.hit, count.lost = count.runs + 1, count.hit + hit, count.lost + lost
    count.same += same(out, whole)
    count.seconds.append(time.monotonic() - began)
    print(count.words, flush=True)


def of_workers(runs: int, folder: Path, draw: random.Random) -> Count:
    """A worker, any, is killed."""

    def strike() -> None:
        if alive := replicas():
            os.kill(draw.choice(alive).pid, signal.SIGKILL)

    with ray_here(processors=2):
        return disturbed(Count("workers"), runs, folder, draw, strike)


def of_nodes(runs: int, folder: Path, draw: random.Random) -> Count:
    """The second of two nodes, with a worker on it, is killed; another comes in its place."""
    with two_nodes() as (strike, renew):
        return disturbed(Count("nodes"), runs, folder, draw, strike, renew)


@contextmanager
def two_nodes() -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Ray on two nodes, which this process has joined; what kills the second, and what begins another."""
    from cotrace.workers.cluster import SETTINGS

    os.environ.update(SETTINGS)
    import ray
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": OBJECT_STORE}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    second = [cluster.add_node(**node)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def strike() -> None:
        cluster.remove_node(second.pop(), allow_graceful=False)

    def renew() -> None:
        second.append(cluster.add_node(**node))
        deadline = time.monotonic() + LEFT_S
        while len(replicas()) < 2 and time.monotonic() < deadline:  # the lost worker begins there
            time.sleep(0.2)

    try:
        yield strike, renew
    finally:
        ray.shutdown()
        cluster.shutdown()


def of_drivers(runs: int, folder: Path, draw: random.Random) -> Count:
    """The driver is killed, its workers must end, and its run is resumed."""
    count = Count("drivers")
    with two_nodes(), Commands.serving(folder) as commands:
        workers = (*WORKERS, "--ray", address_here())
        began = time.monotonic()
        commands.run(*ASKED, *workers, "--out", str(folder / "drivers-life"))
        life_s = time.monotonic() - began
        for i in range(runs):
            out, began = folder / f"drivers-{i}", time.monotonic()
            process = commands.start(*ASKED, *workers, "--out", str(out))
            kill_after(process, draw.uniform(0, life_s))
            killed = commands.wait(process) == -signal.SIGKILL
            if killed:
                check_ended()
                begun = (out / "config.yaml").exists()
                line = ["resume", str(out), "--quiet"] if begun else [*ASKED, "--out", str(out)]
                code, said = commands.run(*line, *workers)
                if code:
                    sys.exit(f"{out} cannot be gone on with: {said}")
            noted(count, out, folder / "whole", began, hit=killed, lost=int(killed))
    return count


def address_here() -> str:
    """The address of the cluster that this process has joined."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def check_ended() -> None:
    """Raise SystemExit where workers of a dead driver go on."""
    deadline = time.monotonic() + LEFT_S
    while replicas():
        if time.monotonic() > deadline:
            sys.exit(f"workers are left {LEFT_S:.0f} s after their driver's death")
        time.sleep(0.2)


KINDS: dict[str, Callable[[int, Path, random.Random], Count]] = {
    "workers": of_workers,
    "nodes": of_nodes,
    "drivers": of_drivers,
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(words)
    found = []
    with tempfile.TemporaryDirectory(prefix="cotrace-losses-") as name:
        folder = Path(name)
        run_here(*ASKED, "--out", str(folder / "whole"))
        for kind, runs in KINDS.items():
            if number := getattr(asked, kind):
                found.append(runs(number, folder, random.Random(asked.seed)))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(count) for count in found], indent=1))
    sys.exit(any(count.same < count.runs for count in found))


if __name__ == "__main__":
    main()
