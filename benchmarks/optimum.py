"""Pursuit against the true optimum: spaces of few components, drawn from trained models' heads, searched exhaustively.

``python -m benchmarks.optimum`` takes the model that ships and its four files; ``--model FOLDER --pairs FILE`` another.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

import cotrace as ct
from cotrace import shipped
from cotrace.components import ComponentSpace
from cotrace.problem.protocol import Mode
from cotrace.results import Frontier, Table
from cotrace.search import Exhaustive, Greedy, Pursuit

DEMOS = ("demo_bias", "demo_agreement", "demo_copying", "demo_conflict")
ROUNDING = 1e-5
"""What an effect may lie below the optimum, relative to the largest, and still be it."""
HEADS = ("pairs of", "mode", "N", "seed", "sizes missed", "by", "by greedy", "by", "cost", "sets")


@dataclass(frozen=True)
class Case:
    """One drawn space."""

    task: str
    mode: Mode
    n: int
    seed: int
    missed: int
    worst: float
    greedy_missed: int
    greedy_worst: float
    cost: float
    exhaustive_cost: float

    def cells(self) -> tuple[str, ...]:
        """As a row of the table."""
        return (
            self.task,
            self.mode,
            str(self.n),
            str(self.seed),
            str(self.missed),
            f"{self.worst:.2%}",
            str(self.greedy_missed),
            f"{self.greedy_worst:.2%}",
            f"{self.cost:.0f}",
            f"{self.exhaustive_cost:.0f}",
        )


def below(optimum: Frontier, found: Frontier) -> tuple[int, float]:
    """At how many sizes it is below the optimum, and by how much of the largest effect at worst."""
    peak = max(abs(selection.effect or 0.0) for selection in optimum)
    gaps = [optimum.sign * (best.effect - found.at(best.k).effect) / peak for best in optimum]  # type: ignore[operator]
    return sum(gap > ROUNDING for gap in gaps), max(gaps)


def case(model: Any, task: ct.Task, mode: Mode, n: int, seed: int, align: str) -> Case:
    """Search one space of n heads by all three."""
    names = model.space((ct.Site("head_output"),)).names
    drawn = ComponentSpace.parse([names[i] for i in sorted(Random(seed).sample(range(len(names)), n))])
    problem = ct.LanguageProblem(model, task, sites=drawn, mode=mode, align=align)  # type: ignore[arg-type]
    optimum, pursuit, greedy = (search(problem) for search in (Exhaustive(), Pursuit(), Greedy()))
    spent = pursuit.forward_equivalents, optimum.forward_equivalents
    return Case(task.name, mode, n, seed, *below(optimum, pursuit), *below(optimum, greedy), *spent)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """All that was asked for."""
    model = ct.load_model(shipped.MODEL if given.model == "shipped" else given.model)
    for name in given.pairs or DEMOS:
        whole = ct.tasks.load(name)
        task = replace(whole, pairs=whole.pairs[:: max(1, len(whole) // given.most_pairs)])
        for mode in given.modes:
            for seed in range(given.seeds):
                yield case(model, task, mode, given.n, seed, given.align)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a row as soon as it is there, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="shipped")
    parser.add_argument("--pairs", nargs="*", help="tasks by name or file")
    parser.add_argument("--modes", nargs="*", default=["swap", "keep"])
    parser.add_argument("-n", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--most-pairs", type=int, default=32)
    parser.add_argument("--align", default="exact")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: list[Case] = []
    for each in cases(given):
        found.append(each)
        print("  ".join(each.cells()), flush=True)
    print(Table("Pursuit and greedy against the optimum", HEADS, [each.cells() for each in found], frozenset({0, 1})))
    if given.json:
        given.json.write_text(json.dumps([vars(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
