"""What an intervention costs that changes nothing: ``python -m benchmarks.overhead [--json PATH]``.

The forward pass with every component's blend in force at z = 0, over the same forward pass without any.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.shapes import SHAPES, random_model, winobias_like
from benchmarks.timing import interleaved, write_cases
from cotrace.interventions import forward
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem

SITES = ("head_output", "mlp_output", "mlp_coordinate", "mlp_neuron")


def measure(model: LanguageModel, shape: str, site: str, pairs: int, rounds: int) -> dict[str, Any]:
    """The ratio for one site: positions of the prompt are patched, in rows that hold whole prompts."""
    problem = LanguageProblem(model, winobias_like(pairs), sites=[site], holdout=0, packing="plain")
    scorer = problem.training.scorer
    layout = scorer.all_layouts[0]
    z = torch.zeros(1, len(problem.space), requires_grad=True)  # a mask that asks for a gradient leaves no blend out
    patches = scorer.donors.patches(layout, scorer.spots)

    @torch.no_grad()
    def blended() -> None:
        scorer.run(z, layout, patches)

    @torch.no_grad()
    def plain() -> None:
        forward(model, layout, [])

    seconds = interleaved({"plain": plain, "blended": blended}, rounds)
    return {"name": site, "shape": shape, "overhead": seconds["blended"] / seconds["plain"] - 1}


def main() -> None:
    """Print the table; write it as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    print(f"{'site':15} {'shape':11} {'overhead':>8}")
    for shape, config in SHAPES.items():
        model = random_model(config())
        for site in SITES:
            cases.append(measure(model, shape, site, options.pairs, options.rounds))
            print(f"{site:15} {shape:11} {cases[-1]['overhead']:8.1%}", flush=True)
    write_cases(options.json, cases)


if __name__ == "__main__":
    main()
