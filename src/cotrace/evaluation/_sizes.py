"""Figures of every size: effects against controls, faithfulness, off-manifold effects, the true optimum.

f(C) = (M(C) - M(none)) / (M(all) - M(none)), where C keeps running and the rest takes the donor's value. CPR is the
area under f, CMD that between f and 1, by trapezoids over the share of components kept.

A mixture of two runs can put the model into a state that neither run, nor any text, would; what it does there is no
evidence about how it works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import combinations, islice
from math import comb, inf, isclose

import numpy as np
import torch
from jaxtyping import Bool, Float

from cotrace.evaluation import controls as random_sets
from cotrace.evaluation._records import Certificate, Controls, Faithfulness, OffManifold, SizeEvidence
from cotrace.evaluation.evaluation import Evaluation
from cotrace.evaluation.published import CLOSE, judge_on
from cotrace.problem.evaluator import Chosen, Evaluator, singles
from cotrace.problem.protocol import Problem, mask_of
from cotrace.results import Frontier, Selection
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


SMALLEST_SWING = 1e-6
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.85)
"""Shares of the space near which sizes are taken; 0 and 1 are the two ends by definition."""


def curve_sizes(n: int, sizes: Sequence[int], most: int) -> list[int]:
    """The sizes found that lie nearest to the shares, the full set aside; at most so many."""
    inner = [size for size in sizes if size < n]
    if not inner:
        return []
    picked = sorted({min(inner, key=lambda size: abs(size - share * n)) for share in SHARES} | {inner[0]})
    return picked[:: -(-len(picked) // most)]


def faithfulness(problem: Problem, chosen: Bool[np.ndarray, "size n"]) -> Faithfulness:
    """f of each kept set and the two areas; refused where the full swap does next to nothing."""
    sizes = chosen.sum(1).tolist()
    values, why = _kept(problem, chosen)
    if why:
        return refused(problem, why)
    share = np.array([0, *sizes, chosen.shape[1]]) / chosen.shape[1]
    whole = np.concatenate([[0.0], values, [1.0]])
    return Faithfulness(
        sets_found_in=problem.mode,
        sizes=tuple(sizes),
        faithfulness=tuple(values.tolist()),
        cpr=float(np.trapezoid(whole, share)),
        cmd=float(np.trapezoid(np.abs(1 - whole), share)),
    )


def refused(problem: Problem, why: str) -> Faithfulness:
    """Return an empty curve and the reason."""
    return Faithfulness(sets_found_in=problem.mode, sizes=(), faithfulness=(), cpr=None, cmd=None, refused=why)


def _kept(problem: Problem, chosen: Bool[np.ndarray, "size n"]) -> tuple[Float[np.ndarray, "kept"], str]:
    """Faithfulness of each set when it is kept, or why there is none."""
    masks = torch.from_numpy(~chosen).float()
    if problem.mode == "keep":
        return problem.value(masks).double().cpu().numpy(), ""
    full = float(problem.value(torch.ones(1, chosen.shape[1]))[0])
    if abs(full) < SMALLEST_SWING:
        return np.array(
            []
        ), f"swapping everything moves {problem.metric} by {full:.2g}: there is nothing to normalise by"
    return (full - problem.value(masks).double().cpu().numpy()) / full, ""


FACTOR = 2.0
"""How many times the largest effect of the full swap, of any pair, is too far."""


def off_manifold(judge: Evaluator, chosen: Chosen) -> Iterator[OffManifold]:
    """Each of these selections under which some pair goes too far; nothing where there are no effects of each pair."""
    if not judge.has_effects:
        return
    full = judge.effects(np.ones((1, judge.n), bool))[0]
    limit = FACTOR * float(np.abs(full).max())
    names = judge.problem.ids
    for row, effects in zip(chosen, judge.effects(chosen), strict=True):
        if (beyond := np.abs(effects) > max(limit, 1e-6)).any():
            worst = int(np.abs(effects).argmax())
            yield OffManifold(
                k=int(row.sum()), pairs=int(beyond.sum()), id=names[worst], effect=float(effects[worst]), limit=limit
            )


BOUNDS: Mapping[tuple[str, str], float] = {
    ("odds_ratio", "minimise"): -1.0,
    ("probability", "maximise"): 1.0,
    ("probability", "minimise"): -1.0,
    ("accuracy", "maximise"): 1.0,
    ("accuracy", "minimise"): -1.0,
}
"""(metric, direction) -> what no effect in ``swap`` mode can exceed, by the metric's definition."""
BATCH = 4096


def certificate(training: Evaluator, chosen: Bool[np.ndarray, "n"], most: int) -> Certificate:
    """The gap to the best of all sets of this size, on the pairs that were searched."""
    k, effect = int(chosen.sum()), float(training.values(chosen[None])[0])
    count = comb(training.n, k)
    if count <= most or count <= _stored(training, k):
        best = max(_best(training, sets) for sets in _every(training.n, k))
        if best == -inf:
            words = f"none of all {count:,} sets of {k} keeps the constraints"
            return Certificate(k=k, effect=effect, optimum=None, gap=None, words=words)
        gap = best - training.sign * effect
        kept = " that keep the constraints" if training.problem.bounds else ""
        words = f"the best of all {count:,} sets of {k}{kept} has {training.sign * best:+.4g}: the gap is {gap:.3g}"
        return Certificate(k=k, effect=effect, optimum=training.sign * best, gap=gap, words=words)
    problem = training.problem
    bound = BOUNDS.get((problem.metric, problem.direction)) if problem.mode == "swap" else None
    many = f"not all {rough(count)} sets of {k} were looked at"
    if bound is None:
        words = f"{many}, and no upper bound is known"
        return Certificate(k=k, effect=effect, optimum=None, gap=None, words=words)
    gap = training.sign * (bound - effect)
    words = f"{many}; by its definition {problem.metric} cannot move beyond {bound:+g}, {gap:.3g} from here"
    return Certificate(k=k, effect=effect, optimum=None, gap=gap, bound=bound, words=words)


def rough(count: int) -> str:
    """A count with four digits, also where no float is as large."""
    return f"{count:,.4g}" if count < 10**300 else f"{Decimal(count):.4g}"


def _best(training: Evaluator, sets: Chosen) -> float:
    """The best of these sets that keep every constraint by its margin, as searches must; larger is better."""
    values = training.sign * training.values(sets)
    if bounds := training.problem.bounds:
        masks = mask_of(training.problem, torch.from_numpy(sets).float())
        for row, sides in enumerate(training.problem.side_values(masks).double().tolist()):
            if any(bound.violation(side, bound.margin) for bound, side in zip(bounds, sides, strict=True)):
                values[row] = -inf
    return float(values.max())


def _stored(training: Evaluator, k: int) -> int:
    """How many sets of this size the search had evaluated."""
    return 0 if training.stored is None else int((training.stored.sizes == k).sum())


def _every(n: int, k: int) -> Iterator[Chosen]:
    everything = combinations(range(n), k)
    while members := list(islice(everything, BATCH)):
        sets = np.zeros((len(members), n), bool)
        np.put_along_axis(sets, np.array(members), True, axis=1)
        yield sets


def applied(frontier: Frontier, evaluation: Evaluation) -> Frontier:
    """The frontier with intervals and p-values filled in; the p-values are those adjusted for all sizes tested.

    Args:
        frontier: The frontier that was judged.
        evaluation: Its evaluation.
    """
    rows: Mapping[int, SizeEvidence] = {row.k: row for row in evaluation.sizes}
    unseen = evaluation.judged_on == "held-out"
    return replace(
        frontier,
        selections=tuple(_filled(selection, rows.get(selection.k), unseen) for selection in frontier),
    )


def _filled(selection: Selection, row: SizeEvidence | None, unseen: bool) -> Selection:
    if not unseen:
        return selection
    if row is None:  # a p-value of an earlier evaluation was adjusted for other sizes
        return replace(selection, p_value=None)
    return replace(
        selection,
        effect_heldout=_same(selection.effect_heldout, row.effect),
        interval=row.interval,
        p_value=row.p_adjusted,
        median_heldout=row.median,
        moved_share=row.moved_share,
    )


def _same(known: float | None, judged: float) -> float:
    """The number as the search had it; the judged one where that is of another problem, for intervals are of it."""
    return known if known is not None and isclose(known, judged, rel_tol=CLOSE, abs_tol=1e-6) else judged


def with_intervals(problem: Problem, frontier: Frontier) -> Frontier:
    """The frontier with intervals where its held-out effects were kept.

    No forward in ``swap`` mode where they were measured in this process, else one to see that they are this problem's;
    one more in ``keep`` mode, for what faithfulness is divided by.
    """
    if problem.heldout is None or frontier.effects_heldout is None:
        return frontier
    judge = judge_on(problem.heldout, frontier.effects_heldout, problem)
    chosen = judge.rows([selection.members for selection in frontier])
    if judge.unknown(chosen):
        return frontier
    judge.intervals(chosen)
    rows = [size_row(judge, row) for row in chosen]
    return replace(
        frontier,
        selections=tuple(_filled(selection, row, unseen=True) for selection, row in zip(frontier, rows, strict=True)),
    )
