"""Off-manifold effects: pairs that a selection moves further than swapping everything moves any pair.

A mixture of two runs can put the model into a state that neither run, nor any text, would; what it does there is no
evidence about how it works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cotrace.evaluation.records import OffManifold
from cotrace.problem.evaluator import Chosen, Evaluator

FACTOR = 2.0
"""How many times the largest effect of the full swap, of any pair, is too far."""


def off_manifold(judge: Evaluator, chosen: Chosen) -> Iterator[OffManifold]:
    """Each of these selections under which some pair goes too far; nothing where there are no effects of each pair."""
    if not judge.has_effects:
        return
    full = judge.effects(np.ones((1, judge.n), bool))[0]
    limit = FACTOR * float(np.abs(full).max())
    names = ids_of(judge)
    for row, effects in zip(chosen, judge.effects(chosen), strict=True):
        if (beyond := np.abs(effects) > max(limit, 1e-6)).any():
            worst = int(np.abs(effects).argmax())
            yield OffManifold(
                k=int(row.sum()), pairs=int(beyond.sum()), id=names[worst], effect=float(effects[worst]), limit=limit
            )


def ids_of(judge: Evaluator) -> Sequence[str]:
    """The pairs' ids, or their numbers where the problem names none."""
    ids: Sequence[str] | None = getattr(judge.problem, "ids", None)
    return ids if ids is not None else [str(i) for i in range(judge.problem.size)]
