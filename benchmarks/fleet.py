"""Fleet: a simulation of 8 to 4,096 workers with measured batch times, stragglers and failures.

``python -m benchmarks.fleet`` measures batches of the model that ships here, then plays gradients (one after another,
each waits for all its batches) on more and more workers: batches are handed out as workers become free, a share of the
workers is slow, workers are lost and begun again, and the driver, which is one process, spends a measured time on each
batch. It prints the efficiency (work done / workers x time) and what limits it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FLEETS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, kw_only=True)
class World:
    """What the simulated workers meet."""

    batch_s: tuple[float, ...]
    """Times of batches, from which each batch's own is drawn."""
    driver_s: float = 0.001
    """Seconds of the driver for each batch: handing it out, and taking its result in."""
    straggler_share: float = 0.01
    slowdown: float = 3.0
    """How much longer a straggler takes for a batch."""
    failures_per_minute: float = 1.0
    """Of all workers together."""
    restart_s: float = 60.0
    """Until a lost worker has its model again."""


@dataclass(frozen=True)
class Played:
    """What a fleet came to."""

    workers: int
    batches: int
    efficiency: float
    lost_to_driver: float
    """Share of the time of the workers that they waited for the driver."""
    lost_to_end: float
    """That they had nothing left to do in a round."""
    lost_to_failures: float
    """That they were lost, began again, or did again what was lost."""
    lost_to_stragglers: float
    """That slow ones took longer than others."""


def play(world: World, workers: int, batches: int, rounds: int = 4, seed: int = 0) -> Played:
    """Rounds of so many batches each on so many workers; every round waits for its last batch."""
    draw = np.random.default_rng(seed)
    slow = draw.random(workers) < world.straggler_share
    gap = 60.0 / world.failures_per_minute if world.failures_per_minute else float("inf")
    fails = draw.exponential(gap)
    free = [(0.0, worker) for worker in range(workers)]
    now = useful = waited = slowed = broken = ended = 0.0
    for _ in range(rounds):
        heapq.heapify(free)
        driver, finish, left = now, now, batches
        times = draw.choice(world.batch_s, size=batches).tolist()
        while left:
            ready, worker = heapq.heappop(free)
            begin = max(ready, driver) + world.driver_s
            waited += begin - ready
            driver = begin
            own = times[left - 1]
            done = begin + own * (world.slowdown if slow[worker] else 1.0)
            if fails < done:  # this worker is lost: it begins anew, and another does the batch again
                lost = max(fails, begin)
                broken += lost - begin + world.restart_s
                heapq.heappush(free, (lost + world.restart_s, worker))
                fails = lost + draw.exponential(gap)
                continue
            useful, slowed, left = useful + own, slowed + done - begin - own, left - 1
            finish = max(finish, done)
            heapq.heappush(free, (done, worker))
        ended += sum(max(0.0, finish - ready) for ready, _ in free)
        now = finish
        free = [(max(ready, finish), worker) for ready, worker in free]
    whole = workers * now
    return Played(workers, batches, useful / whole, waited / whole, ended / whole, broken / whole, slowed / whole)


def limits(played: Played) -> str:
    """What a fleet loses most to, in words."""
    causes = {
        "the driver hands batches out no faster": played.lost_to_driver,
        "the last batches of a round leave the others idle": played.lost_to_end,
        "workers that are lost and begin again": played.lost_to_failures,
        "slow workers": played.lost_to_stragglers,
    }
    return max(causes, key=lambda name: causes[name])


def measured(rounds: int = 3) -> tuple[tuple[float, ...], float]:
    """Seconds of each batch of the model that ships, and of the driver for one: cutting, sending, and adding up."""
    import torch

    import cotrace as ct
    from cotrace.problem.losses import SumLoss

    torch.set_num_threads(1)
    problem = ct.LanguageProblem(
        ct.load_model("shipped"), ct.tasks.load("demo_conflict"), sites=["head_output"], batch_tokens=512
    )
    scorer = problem.training.scorer
    z = torch.full((len(problem.space),), 0.5)
    times = []
    for _ in range(rounds):
        for layout in scorer.all_layouts:
            began = time.perf_counter()
            scorer.batch_slope(z, SumLoss(), layout)
            times.append(time.perf_counter() - began)
    return tuple(times), statistics.median(_driver_times(len(problem.space)))


def _driver_times(n: int) -> list[float]:
    """Of a batch at the driver, with Ray where it is installed; else of a millisecond, which it was measured to be."""
    try:
        import ray
    except ImportError:
        return [0.001]
    import torch

    from cotrace.workers.cluster import Needs, join

    join(None, Needs(workers=1, cpus=1))

    @ray.remote
    class Echo:
        def slope(self, z: torch.Tensor) -> torch.Tensor:
            return z

    echo, z, times = Echo.remote(), torch.zeros(n), []
    ray.get(echo.slope.remote(z))
    for _ in range(20):  # many at once: what the driver does for each, not how long each travels
        began = time.perf_counter()
        ray.get([echo.slope.remote(z) for _ in range(50)])
        times.append((time.perf_counter() - began) / 50)
    ray.shutdown()
    return times


def table(world: World, per_worker: Sequence[int], fleets: Sequence[int] = FLEETS) -> list[Played]:
    """Every fleet with so many batches for each worker."""
    return [play(world, workers, workers * each) for each in per_worker for workers in fleets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--batch-s", type=float, default=1.0, help="seconds of a larger model's batch, played as well")
    asked = parser.parse_args()
    times, driver = measured()
    mean, played = statistics.fmean(times), {}
    for each in (mean, asked.batch_s):
        world = World(batch_s=tuple(each / mean * one for one in times), driver_s=driver)
        print(
            f"\nbatches of {each:.3g} s, {driver * 1e3:.2g} ms of the driver each: it feeds {each / driver:.0f} workers"
        )
        played[f"{each:.3g}"] = table(world, (16, 64))
        for row in played[f"{each:.3g}"]:
            many = row.batches // row.workers
            print(f"{row.workers:5} workers, {many} batches for each: efficiency {row.efficiency:.2f}; {limits(row)}")
    if asked.json:
        told = {"measured": {"batch_s": mean, "driver_s": driver}}
        told |= {name: [asdict(row) for row in rows] for name, rows in played.items()}
        asked.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
