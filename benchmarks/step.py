"""How near a search step comes to what its mathematics needs: ``python -m benchmarks.step [--json PATH]``.

The floor is plain transformers on the same number of real tokens, without padding: one forward and one backward over
activations only, with the output head at as many positions as answers are read at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.shapes import SHAPES, professions_like, random_model, winobias_like
from benchmarks.timing import Version, interleaved, write_cases
from cotrace.models import LanguageModel
from cotrace.models.language_model import evaluating
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task

FLOOR_ROW = 16
"""Tokens of one row of the floor's input."""


@dataclass(frozen=True)
class Case:
    """One kind of step."""

    name: str
    site: str
    task: Callable[[int], Task]


CASES = (
    Case("heads", "head_output", winobias_like),
    Case("patterns", "attention_pattern", winobias_like),
    Case("mlp", "mlp_coordinate", professions_like),
)


def floor_step(model: LanguageModel, tokens: int, reads: int) -> Version:
    """Forward and activation-only backward over ``tokens`` tokens, the head at ``reads`` positions."""
    width = model.module.get_input_embeddings().weight.shape[1]
    rows = -(-tokens // FLOOR_ROW)
    embeddings = torch.randn(rows, FLOOR_ROW, width, device=model.device, dtype=model.dtype, requires_grad=True)

    def step() -> None:
        with evaluating(model.module):
            loss = _read(model, embeddings, reads)
            torch.autograd.grad(loss, embeddings)

    return step


def floor_forward(model: LanguageModel, tokens: int, reads: int) -> Version:
    """The same without the backward."""
    width = model.module.get_input_embeddings().weight.shape[1]
    embeddings = torch.randn(-(-tokens // FLOOR_ROW), FLOOR_ROW, width, device=model.device, dtype=model.dtype)

    @torch.no_grad()
    def run() -> None:
        _read(model, embeddings, reads)

    return run


def _read(model: LanguageModel, embeddings: torch.Tensor, reads: int) -> torch.Tensor:
    hidden = model.module.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    logits = model.module.get_output_embeddings()(hidden.flatten(0, 1)[:reads])
    return (logits[:, 0] - torch.logsumexp(logits, -1)).sum()


def measure(case: Case, shape: str, model: LanguageModel, pairs: int, rounds: int, threads: int) -> dict[str, Any]:
    """The figures of one case on one shape."""
    problem = LanguageProblem(model, case.task(pairs), sites=[case.site], holdout=0)
    layouts = problem.training.scorer.all_layouts
    tokens, reads = sum(x.tokens for x in layouts), sum(len(x.read_at) for x in layouts)
    n = len(problem.space)
    z = torch.full((n,), 0.5)
    chosen = torch.zeros(n).index_fill(0, torch.arange(0, n, max(2, n // 8)), 1)
    candidates = (chosen + torch.eye(n)).clamp(max=1)[chosen == 0][:: max(1, n // 24)]
    seconds = interleaved(
        {
            "floor_step": floor_step(model, tokens, reads),
            "step": lambda: problem.gradient(z, lambda m: 1 / (1 + m)),
            "floor_forward": floor_forward(model, tokens, reads),
            "evaluation": lambda: problem.effects(chosen),
            "candidates": lambda: problem.effects(candidates),
        },
        rounds,
    )
    return {
        "name": case.name,
        "shape": shape,
        "threads": threads,
        "pairs": pairs,
        "tokens": tokens,
        "padded_tokens": sum(x.cells for x in layouts),
        "step_s": seconds["step"],
        "floor_step_s": seconds["floor_step"],
        "step_ratio": seconds["step"] / seconds["floor_step"],
        "evaluation_ratio": seconds["evaluation"] / seconds["floor_forward"],
        "candidate_ratio": _greedy_step(seconds, len(candidates), n - int(chosen.sum())) / seconds["floor_forward"],
        "memory_ratio": _peak(lambda: problem.gradient(z)) / _peak(floor_step(model, tokens, reads)),
    }


def _greedy_step(seconds: dict[str, float], timed: int, all_of_them: int) -> float:
    """Seconds of one candidate of a greedy step, of which some were timed: the reference run is shared by all."""
    return (seconds["candidates"] - seconds["evaluation"]) / timed + seconds["evaluation"] / all_of_them


def _peak(version: Version) -> float:
    """Peak bytes that one call allocates: replayed from the profiler's log of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        version()
    now = peak = 0
    for event in sorted(log.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return float(peak)


def main() -> None:
    """Print the table; write it as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", "--shape", default=",".join(SHAPES))
    parser.add_argument("--cases", default=",".join(case.name for case in CASES))
    parser.add_argument("--threads", default=f"1,{torch.get_num_threads()}")
    options = parser.parse_args()
    cases = []
    print(f"{'case':9} {'shape':11} {'threads':>7} {'step':>6} {'evaluation':>10} {'candidates':>10} {'memory':>7}")
    for shape in options.shapes.split(","):
        model = random_model(SHAPES[shape]())
        for threads in sorted(set(map(int, options.threads.split(",")))):
            torch.set_num_threads(threads)
            for case in (case for case in CASES if case.name in options.cases.split(",")):
                found = measure(case, shape, model, options.pairs, options.rounds, threads)
                cases.append(found)
                figures = [found[f"{key}_ratio"] for key in ("step", "evaluation", "candidate", "memory")]
                print(f"{case.name:9} {shape:11} {threads:7}", *(f"{figure:9.2f}" for figure in figures))
                sys.stdout.flush()
    write_cases(options.json, cases)


if __name__ == "__main__":
    main()
