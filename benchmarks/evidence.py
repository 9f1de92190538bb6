"""Are the intervals and p-values what they say? Simulated problems whose truth is known: python -m benchmarks.evidence

Coverage: the share of simulated problems whose 95 % interval holds the true mean effect. Null: p-values of random sets
against random sets of the same composition, which must be uniform.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from math import exp
from pathlib import Path

import numpy as np
from scipy import stats

from cotrace.components import Component, ComponentSpace, Site
from cotrace.evaluation import controls
from cotrace.statistics import Units, max_t, mean_interval, p_values

SPREAD = 1.5
SHIFT = 0.5
Draw = Callable[[np.random.Generator, int], np.ndarray]


def _group_effects(draw: np.random.Generator, size: int) -> np.ndarray:
    """Log-odds changes of groups of four that share half of their variance."""
    own = draw.normal(0, SPREAD / np.sqrt(2), size)
    return SHIFT + own + np.repeat(draw.normal(0, SPREAD / np.sqrt(2), -(-size // 4)), 4)[:size]


EFFECTS: Mapping[str, tuple[Draw, float]] = {
    "log_odds, normal": (lambda draw, size: draw.normal(SHIFT, SPREAD, size), SHIFT),
    "log_odds, logistic": (lambda draw, size: draw.logistic(SHIFT, SPREAD * np.sqrt(3) / np.pi, size), SHIFT),
    "log_odds, groups of 4": (_group_effects, SHIFT),
    "odds_ratio": (lambda draw, size: np.expm1(draw.normal(SHIFT, SPREAD, size)), exp(SHIFT + SPREAD**2 / 2) - 1),
}
"""Name -> (effects of so many examples, their true mean). The odds ratio is the exponential of the log-odds, less 1."""


def coverage(name: str, size: int, problems: int, *, resamples: int = 2_000, seed: int = 0) -> float:
    """Share of simulated problems of this size whose interval holds the true mean."""
    effects, truth = EFFECTS[name]
    groups = [str(i // 4) for i in range(size)] if "groups" in name else None
    units = Units.made(size, labels=groups)
    held = 0
    for problem in range(problems):
        interval = mean_interval(effects(np.random.default_rng([seed, problem]), size), units, resamples=resamples)
        held += interval is not None and interval[0] <= truth <= interval[1]
    return held / problems


def null_p_values(trials: int, chains: int, *, n: int = 48, k: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """p-values of random selections at one size, and the smallest adjusted one over four sizes, in each trial."""
    space = ComponentSpace(tuple(Component(Site.HEAD_OUTPUT, i // 8, i % 8) for i in range(n)))
    single, smallest = [], []
    for trial in range(trials):
        draw = np.random.default_rng([seed, trial])
        weights, pairs = draw.normal(size=n), np.triu(draw.normal(size=(n, n)), 1)
        order = draw.permutation(n)
        chosen = np.zeros((4, n), bool)
        for row, size in zip(chosen, (2, 4, k, 2 * k), strict=True):
            row[order[:size]] = True
        _, blocks = controls.composition(space, chosen, 2)
        observed = controls.chains(blocks, chosen, 1, seed=trial + 1)  # a selection like any other
        drawn = controls.chains(blocks, chosen, chains, seed=trial + 10_000_000)
        effects = [_effect(sets.astype(float), weights, pairs) for some in (*observed, *drawn) for sets in some]
        single.append(p_values(effects[0], np.stack(effects[1:]))[2])
        smallest.append(max_t(effects[0], np.stack(effects[1:])).min())
    return np.array(single), np.array(smallest)


def _effect(sets: np.ndarray, weights: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return sets @ weights + np.einsum("si,ij,sj->s", sets, pairs, sets)


def uniform_p(p_values: np.ndarray, chains: int, seed: int = 0) -> float:
    """p-value of the Kolmogorov-Smirnov test of uniformity, the steps of 1 / (chains + 1) filled in at random."""
    spread = p_values - np.random.default_rng(seed).uniform(size=len(p_values)) / (chains + 1)
    return float(stats.kstest(spread, "uniform").pvalue)


def main() -> None:
    """Print both tables; ``--json`` writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--problems", type=int, default=1_000)
    asked = parser.parse_args()
    sizes = (10, 20, 50, 100, 200)
    table = {
        name: {size: coverage(name, size, asked.problems) for size in sizes if size >= 40 or "groups" not in name}
        for name in EFFECTS
    }
    for name, row in table.items():
        print(f"{name:24}", "  ".join(f"n={size}: {share:.1%}" for size, share in row.items()), flush=True)
    single, smallest = null_p_values(asked.problems, 99)
    null = {
        "ks_p": uniform_p(single, 99),
        "share_below_0.05": float((single <= 0.05).mean()),
        "any_size_below_0.05": float((smallest <= 0.05).mean()),
    }
    print("null:", "  ".join(f"{name} {value:.3f}" for name, value in null.items()))
    if asked.json:
        asked.json.write_text(json.dumps({"coverage": table, "null": null}, indent=1) + "\n")


if __name__ == "__main__":
    main()
