"""What checkpoints cost: ``python -m benchmarks.checkpoints [--json PATH]``.

Searches on the model that ships, kept as a run keeps them. The overhead is the time spent on keeping (noting a step,
writing, forgetting the older ones) over the time of the search without it. ``every_s`` is the least time between two
checkpoints: 10 s is what a run does, 1 s shows that the rest after each bounds the cost whatever it is set to, and 0
writes one at every step, without a bound.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import write_cases
from cotrace.runs import RunConfig
from cotrace.runs.checkpoint import Checkpoints, RunState
from cotrace.runs.prepare import Prepared, prepare
from cotrace.runs.result_files import Step
from cotrace.runs.writer import Keeper
from cotrace.search import Search, SearchState, solve

SEARCHES = ("pursuit", "pgbct", "greedy", "random", "annealing")
SITES = ("head_output", "mlp_neuron")
EVERY_S = (10.0, 1.0, 0.0)
LARGEST = {"head_output": None, "mlp_neuron": 12}
"""Max size: exact greedy over all neurons takes minutes a size."""


class Kept:
    """A keeper whose own time is measured."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self.checkpoints = Checkpoints(folder, "benchmark")
        self.keeper = Keeper(folder, self.checkpoints, RunState(), every_s)
        self.seconds, self.written, self.steps, self.largest_bytes = 0.0, 0, 0, 0
        save = self.checkpoints.save

        def counted(at: RunState) -> None:
            save(at)
            self.written += 1

        self.checkpoints.save = counted  # type: ignore[method-assign]

    def __call__(self, state: SearchState) -> None:
        began, before = time.perf_counter(), self.written
        self.steps += 1
        step = Step(state.search, state.phase, state.step, state.spent, len(state.archive), 1, 0.0)
        self.keeper.step(step, state)
        self.seconds += time.perf_counter() - began
        if self.written > before:
            sizes = [path.stat().st_size for path in self.checkpoints.folder.iterdir()]
            self.largest_bytes = max(self.largest_bytes, sum(sizes))


def measure(prepared: Prepared, search: Search, site: str, every_s: float) -> dict[str, Any]:
    """One search, kept so often."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(Path(folder), every_s)
        began = time.perf_counter()
        solve(search, prepared.problem, progress=kept)
        elapsed = time.perf_counter() - began
    return {
        "name": search.name,
        "site": site,
        "every_s": every_s,
        "steps": kept.steps,
        "checkpoints": kept.written,
        "folder_bytes": kept.largest_bytes,
        "search_s": elapsed - kept.seconds,
        "overhead": kept.seconds / (elapsed - kept.seconds),
    }


def main() -> None:
    """Print the table; write it as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--task", default="demo_bias")
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES))
    parser.add_argument("--sites", nargs="+", default=list(SITES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    print(f"{'search':10} {'site':12} {'every':>6} {'steps':>6} {'written':>7} {'on disk':>9} {'search':>8} overhead")
    for site in options.sites:
        config = RunConfig(model="shipped", task=options.task, sites=(site,), max_size=LARGEST.get(site))
        prepared = prepare(config, options.searches)
        for search in prepared.searches:
            for every_s in EVERY_S:
                cases.append(case := measure(prepared, search, site, every_s))
                print(
                    f"{case['name']:10} {site:12} {every_s:4.0f} s {case['steps']:6} {case['checkpoints']:7} "
                    f"{case['folder_bytes'] / 2**20:5.1f} MiB {case['search_s']:6.1f} s {case['overhead']:8.2%}",
                    flush=True,
                )
    write_cases(options.json, cases)


if __name__ == "__main__":
    main()
