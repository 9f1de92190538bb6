"""How the cost of a step grows: ``python -m benchmarks.scaling [--json PATH]``.

Search step (a gradient on all pairs) and one evaluation, in seconds, against the number of components, of pairs, the
length of prompts and the number of layers, one of them varied at a time. ``slope`` is the exponent between neighbouring
points: 1 where the cost is in proportion. ``--large`` draws the curves of ``benchmarks.growth`` instead: thousands of
pairs, prompts of thousands of tokens, hundreds of thousands of components.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import GPT2Config

from benchmarks.growth import CURVES, print_curves
from benchmarks.shapes import prompts_of, random_model
from benchmarks.timing import interleaved, write_cases
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem

WIDTH, HEADS, LAYERS, PAIRS, LENGTH = 256, 8, 6, 32, 12
VOCABULARY = 4000
GRIDS: dict[str, Sequence[int]] = {
    "components": (48, 384, 1536, 6144),
    "pairs": (8, 16, 32, 64, 128),
    "length": (8, 16, 32, 64, 128, 256),
    "layers": (2, 4, 8, 16),
}
"""What is varied -> its values. Components are heads, then coordinates and neurons of the same six layers."""
SITES = {48: "head_output", 384: "mlp_neuron@64", 1536: "mlp_coordinate", 6144: "mlp_neuron"}


def model_of(layers: int, length: int, hidden: int | None = None) -> LanguageModel:
    """A GPT-2 of this many layers that takes prompts of this length."""
    size = {"n_embd": WIDTH, "n_head": HEADS, "n_positions": max(1024, 2 * length), "vocab_size": VOCABULARY}
    return random_model(GPT2Config(n_layer=layers, n_inner=hidden, **size))


def problems(grid: str, value: int) -> LanguageProblem:
    """The problem of one point: all but one thing as they are by default."""
    site, _, hidden = SITES.get(value if grid == "components" else HEADS * LAYERS, "head_output").partition("@")
    length = value if grid == "length" else LENGTH
    model = model_of(value if grid == "layers" else LAYERS, length, int(hidden) if hidden else None)
    task = prompts_of(value if grid == "pairs" else PAIRS, length)
    return LanguageProblem(model, task, sites=[site], holdout=0)


def versions(problem: LanguageProblem, value: int) -> dict[str, Callable[[], Any]]:
    """What is timed at one point."""
    z = torch.full((len(problem.space),), 0.5)
    chosen = torch.zeros(len(z)).index_fill(0, torch.arange(0, len(z), max(2, len(z) // 8)), 1)
    return {f"step {value}": lambda: problem.gradient(z), f"evaluation {value}": lambda: problem.effects(chosen)}


def points(grid: str, values: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """The figures of one curve, whose points are timed in turn."""
    made = {value: problems(grid, value) for value in values}
    timed = {name: run for value, problem in made.items() for name, run in versions(problem, value).items()}
    seconds = interleaved(timed, rounds)
    before: dict[str, Any] | None = None
    for value, problem in made.items():
        plan = problem.plan
        row = {"name": grid, "value": value, "components": plan.components, "pairs": plan.pairs}
        row |= {"tokens": plan.tokens, "padded_tokens": plan.padded_tokens, "batches": plan.batches}
        row |= {"step_s": seconds[f"step {value}"], "evaluation_s": seconds[f"evaluation {value}"]}
        row |= {"slope": None if before is None else slope(before, row), "threads": torch.get_num_threads()}
        yield row
        before = row


def slope(before: dict[str, Any], row: dict[str, Any]) -> float:
    """Exponent of the step's cost between two points."""
    return math.log(row["step_s"] / before["step_s"]) / math.log(row["value"] / before["value"])


def main() -> None:
    """Print the curves; write them as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--grids", help="which curves, separated by commas; all where none are named")
    parser.add_argument("--large", action="store_true", help="far beyond a few dozen pairs: see benchmarks.growth")
    parser.add_argument("--most", type=int, default=10**9, help="leave out larger values")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.large:
        names = options.grids.split(",") if options.grids else list(CURVES)
        write_cases(options.json, print_curves(names, options.most))
        return
    rows = []
    print(f"{'varied':11} {'value':>6} {'tokens':>7} {'passes':>6} {'step ms':>9} {'evaluation':>10} {'slope':>6}")
    for grid in options.grids.split(",") if options.grids else GRIDS:
        for row in points(grid, [value for value in GRIDS[grid] if value <= options.most], options.rounds):
            rows.append(row)
            seconds = f"{1000 * row['step_s']:9.1f} {1000 * row['evaluation_s']:10.1f}"
            exponent = "" if row["slope"] is None else f"{row['slope']:.2f}"
            print(f"{grid:11} {row['value']:6} {row['tokens']:7} {row['batches']:6} {seconds} {exponent:>6}")
            sys.stdout.flush()
    write_cases(options.json, rows)


if __name__ == "__main__":
    main()
