"""Each size on the pairs that judge: effect, interval, median, and the test against random and single-effect sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from cotrace.evaluation import controls as random_sets
from cotrace.evaluation.records import Controls, SizeEvidence
from cotrace.problem.evaluator import Chosen, Evaluator, singles
from cotrace.problem.masks import mask_of
from cotrace.search.sets import Sample, prefixes, ranked
from cotrace.statistics import max_t, p_values, smallest_p

RANKED = 1_000
"""Training pairs by whose gradient single components are ranked, where their effects would cost too much."""


def size_row(judge: Evaluator, chosen: Bool[np.ndarray, "n"]) -> SizeEvidence:
    """Effect and interval of one selection; the interval is None where there are too few pairs."""
    k, effect = int(chosen.sum()), float(judge.values(chosen[None])[0])
    if not judge.has_effects:
        return SizeEvidence(k=k, effect=effect, interval=judge.interval(chosen))
    effects = judge.effects(chosen[None])[0]
    return SizeEvidence(
        k=k,
        effect=effect,
        interval=judge.interval(chosen),
        median=float(np.median(effects)),
        moved_share=float((judge.sign * effects > 0).mean()),
    )


def best_singles(training: Evaluator, sizes: Sequence[int], limit: int) -> tuple[str, Chosen]:
    """The sets of the best single components on the training pairs, and how they were ranked."""
    if training.knows_singles or training.n <= limit:
        values = np.concatenate([training.values(some) for some in singles(training.n)])
        score, how = torch.from_numpy(training.sign * values), "effects"
    else:
        score, how = _slope(training), "gradient"
    return how, prefixes(ranked(score), list(sizes), training.n).numpy()


def _slope(training: Evaluator) -> torch.Tensor:
    """First-order effect of choosing each component by itself, on at most ``RANKED`` pairs; costs 2, or their share."""
    problem = training.problem
    some = Sample(min(1.0, RANKED / problem.size)).of(b"", problem.size)
    slope = problem.gradient(mask_of(problem, torch.zeros(training.n)), examples=some).detach().double().cpu()
    training.spent += 2
    return training.sign * (slope if problem.mode == "swap" else -slope)


def tested(
    judge: Evaluator,
    rows: dict[int, SizeEvidence],
    chosen: Chosen,
    alone: tuple[str, Chosen],
    chains: int,
    k: int,
    seed: int,
) -> tuple[dict[int, SizeEvidence], Controls]:
    """The rows of these sizes with p-values, and how they were made."""
    sizes = chosen.sum(1).tolist()
    at = sizes.index(k)
    composition, blocks = random_sets.composition(judge.problem.space, chosen, at)
    drawn = random_sets.chains(blocks, chosen, chains, seed)
    effects = np.concatenate([judge.values(some.reshape(-1, judge.n)) for some in drawn]).reshape(chains, len(sizes))
    observed = judge.values(chosen)
    p = p_values(judge.sign * observed, judge.sign * effects)
    adjusted = max_t(judge.sign * observed, judge.sign * effects)
    found = {
        size: _compared(judge, rows[size], effects[:, i], (p[i], adjusted[i]), chosen[i], alone[1][i])
        for i, size in enumerate(sizes)
    }
    about = Controls(
        chains=chains,
        composition=composition,
        smallest_p=smallest_p(chains),
        k=k,
        p_value=float(p[at]),
        singles=alone[0],
    )
    return found, about


def _compared(
    judge: Evaluator,
    row: SizeEvidence,
    controls: Float[np.ndarray, "chain"],
    p: tuple[float, float],
    chosen: Bool[np.ndarray, "n"],
    single: Bool[np.ndarray, "n"],
) -> SizeEvidence:
    return SizeEvidence(
        k=row.k,
        effect=row.effect,
        interval=row.interval,
        median=row.median,
        moved_share=row.moved_share,
        control_mean=float(controls.mean()),
        control_best=float(judge.sign * (judge.sign * controls).max()),
        p_value=float(p[0]),
        p_adjusted=float(p[1]),
        over_single=judge.gain_interval(chosen, single),
        single_effect=float(judge.values(single[None])[0]),
    )
