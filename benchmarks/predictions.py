"""Whether a run takes the time that its plan says: ``python -m benchmarks.predictions [--json PATH]``.

Each case is forecast, then run. ``time_ratio`` is predicted over measured, which may be off by half.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import SHAPES, random_model, winobias_like
from benchmarks.timing import write_cases
from cotrace import shipped
from cotrace.models import LanguageModel, load_model
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.runs.forecast import forecast
from cotrace.search import Greedy, Pursuit, Search, solve
from cotrace.tasks import agreement

STORIES = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260k"


def the_shipped(pairs: int) -> tuple[LanguageModel, Task]:
    """The model that ships, on one of its tasks."""
    return load_model(shipped.MODEL), agreement(size=8 * pairs, seed=0)


def stories(pairs: int) -> tuple[LanguageModel, Task]:
    """A real pretrained Llama of 260 thousand parameters."""
    return load_model(STORIES), agreement(size=8 * pairs, seed=0)


def gpt2_small(pairs: int) -> tuple[LanguageModel, Task]:
    """Random weights of GPT-2 small's shape."""
    return random_model(SHAPES["gpt2-small"]()), winobias_like(pairs)


CASES: Mapping[str, Callable[[int], tuple[LanguageModel, Task]]] = {
    "shipped": the_shipped,
    "stories260k": stories,
    "gpt2-small": gpt2_small,
}


def searches(name: str) -> tuple[Search, ...]:
    """What is run on a case: all sizes on small models, a few on the large one."""
    if name == "gpt2-small":
        return Pursuit(max_size=6, effort="fast"), Greedy(max_size=1)
    return Pursuit(), Greedy(max_size=6)


def measure(name: str, pairs: int, index: int, site: str, threads: int) -> dict[str, Any]:
    """The forecast of one of a case's searches beside what it then took."""
    torch.set_num_threads(threads)
    model, task = CASES[name](pairs)
    search = searches(name)[index]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem = LanguageProblem(model, task, sites=[site])
    began = time.perf_counter()
    predicted = forecast(problem, [search]).searches[search.name]
    took, began = time.perf_counter() - began, time.perf_counter()
    before = problem.cost.forward_equivalents
    solve(search, problem)
    seconds = time.perf_counter() - began
    return {
        "name": name,
        "shape": model.name,
        "search": search.name,
        "site": site,
        "threads": torch.get_num_threads(),
        "components": len(problem.space),
        "predicted_s": predicted.seconds,
        "elapsed_s": seconds,
        "time_ratio": predicted.seconds / seconds,
        "predicted_forward_equivalents": predicted.forward_equivalents,
        "forward_equivalents": (spent := problem.cost.forward_equivalents - before),
        "cost_ratio": predicted.forward_equivalents / spent,
        "forecast_s": took,
    }


def main() -> None:
    """Print the table; write it as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--site", default="head_output")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    rows = []
    print(f"{'case':12} {'search':8} {'predicted':>10} {'measured':>10} {'cost':>6} {'time':>6} {'forecast':>9}")
    for name in options.cases.split(","):
        for index, search in enumerate(searches(name)):
            row = measure(name, options.pairs, index, options.site, options.threads)
            rows.append(row)
            times = f"{row['predicted_s']:9.1f}s {row['elapsed_s']:9.1f}s"
            ratios = f"{row['cost_ratio']:6.2f} {row['time_ratio']:6.2f}"
            print(f"{name:12} {search.name:8} {times} {ratios} {row['forecast_s']:8.1f}s")
            sys.stdout.flush()
    write_cases(options.json, rows)


if __name__ == "__main__":
    main()
