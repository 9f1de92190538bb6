"""Losses: runs on workers in which a worker, a node or the driver is killed at random, compared byte by byte.

``python -m benchmarks.losses --workers 50 --nodes 10 --drivers 10`` counts how many end in the bytes of an undisturbed
run in one process. Nodes are those of Ray's own cluster utilities, on this machine: one for the driver, one that dies.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

SAME = ("frontier.csv", "masks.safetensors", "evaluation.json")
ASKED = ("--model", "shipped", "--task", "demo_conflict", "--max-size", "6", "--batch-tokens", "512")


def command(*arguments: str) -> list[str]:
    """A command line of cotrace."""
    return [sys.executable, "-m", "cotrace", *arguments]


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same results, byte by byte."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in SAME)


def replicas_of(process: int) -> list[psutil.Process]:
    """The workers of a driver that has begun Ray itself; of any other, all that are of this user."""
    found = [one for one in psutil.process_iter(["cmdline"]) if "ray::Replica" in " ".join(one.info["cmdline"] or [])]
    own = {child.pid for child in psutil.Process(process).children(recursive=True)}
    return [one for one in found if one.pid in own]


def kill_a_worker(process: subprocess.Popen[bytes], draw: random.Random) -> bool:
    """Once there are workers, and after a while, one of them dies."""
    while process.poll() is None and not replicas_of(process.pid):
        time.sleep(0.1)
    time.sleep(draw.uniform(0, 10))
    if process.poll() is None and (alive := replicas_of(process.pid)):
        os.kill(draw.choice(alive).pid, signal.SIGKILL)
        return True
    return False


def kill_the_driver(process: subprocess.Popen[bytes], draw: random.Random) -> bool:
    """After a while, the driver dies."""
    time.sleep(draw.uniform(5, 40))
    if process.poll() is None:
        process.kill()
        return True
    return False


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a cluster, and what kills its second node."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = cluster.add_node(num_cpus=2)
    try:
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def once(out: Path, whole: Path, disturb: Callable[[subprocess.Popen[bytes]], bool]) -> tuple[bool, bool]:
    """One run that is disturbed, resumed where it ended early: (was it disturbed, are its bytes the same)."""
    process = subprocess.Popen(command("trace", *ASKED, "--workers", "2", "--out", str(out), "--quiet"))
    hit = disturb(process)
    code = process.wait()
    if code and (out / "config.yaml").exists():
        code = subprocess.run(command("resume", str(out), "--workers", "2", "--quiet"), check=False).returncode
    elif code:
        code = subprocess.run(command("trace", *ASKED, "--out", str(out), "--quiet"), check=False).returncode
    return hit, code == 0 and same(out, whole)


def with_a_node_lost(out: Path, whole: Path, draw: random.Random) -> tuple[bool, bool]:
    """One run on two nodes, of which the second dies on the way."""
    with two_nodes() as (address, kill):
        asked = ("--workers", "2", "--ray", address, "--out", str(out), "--quiet")
        process = subprocess.Popen(command("trace", *ASKED, *asked))
        timer = threading.Timer(draw.uniform(10, 40), kill)
        timer.start()
        code = process.wait()
        timer.cancel()
        return True, code == 0 and same(out, whole)


def rounds(folder: Path, counts: dict[str, int], seed: int) -> dict[str, Sequence[int]]:
    """Kind of loss -> (runs, those that were hit, those that ended in the same bytes)."""
    draw, whole, found = random.Random(seed), folder / "whole", dict[str, Sequence[int]]()
    subprocess.run(command("trace", *ASKED, "--out", str(whole), "--quiet"), check=True)
    kinds: dict[str, Callable[[Path], tuple[bool, bool]]] = {
        "workers": lambda out: once(out, whole, lambda process: kill_a_worker(process, draw)),
        "nodes": lambda out: with_a_node_lost(out, whole, draw),
        "drivers": lambda out: once(out, whole, lambda process: kill_the_driver(process, draw)),
    }
    for kind, count in counts.items():
        several = [kinds[kind](folder / f"{kind}-{i}") for i in range(count)]
        found[kind] = (count, sum(hit for hit, _ in several), sum(equal for _, equal in several))
        print(f"{kind}: {count} runs, {found[kind][1]} hit, {found[kind][2]} with the same bytes", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for kind in ("workers", "nodes", "drivers"):
        parser.add_argument(f"--{kind}", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cotrace-losses-") as folder:
        counts = {kind: getattr(asked, kind) for kind in ("workers", "nodes", "drivers")}
        found = rounds(Path(folder), counts, asked.seed)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
