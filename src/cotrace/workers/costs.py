"""Costs: what workers will take, before any is begun: seconds, memory of each, and the object store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import count

from torch import Tensor

from cotrace.batches import Layout
from cotrace.components import ComponentSpace
from cotrace.donors.record import recorded_bytes
from cotrace.models import LanguageModel
from cotrace.problem.language import LanguageProblem
from cotrace.problem.pairs import PairProblem
from cotrace.problem.parts import RECORDED
from cotrace.problem.scorer import Scorer
from cotrace.problem.slots import Slots
from cotrace.problem.whole import SetProblem
from cotrace.workers.cut import Batch, Cut, Runs, Sent

STORED_FLOATS = 4
"""Bytes of a mask's entry and of a gradient's."""


@dataclass(frozen=True)
class Costs:
    """What a run takes with so many workers."""

    workers: int
    seconds: float
    """With all of them as fast as this process, none lost."""
    share_s: float
    """Share of the time of one process that is left: what the last round of batches leaves idle is counted."""
    worker_bytes: int
    """Weights, and donor values of its share of the batches; activations of one forward pass come on top."""
    store_bytes: int
    """Tokens of all batches and of their donor runs; of a model that was made in memory, its weights too."""
    round_bytes: int
    """What one gradient sends and brings, all batches together."""


def costs(problem: LanguageProblem, seconds: float, workers: int) -> Costs:
    """From the plan and the seconds of one process; nothing is run and no worker begun."""
    scorers = list(_scorers(problem))
    batches = len(problem.training.scorer.all_layouts)
    share = math.ceil(batches / workers) / batches
    weights = int(problem.model.module.get_memory_footprint())
    donors = sum(_donor_bytes(problem.model, problem.space, scorer) for scorer in scorers)
    stored = sum(map(_stored_bytes, scorers)) + (weights if problem.model.loaded is None else 0)
    sent = 2 * batches * STORED_FLOATS * len(problem.space)
    return Costs(workers, seconds * share, share, weights + math.ceil(donors / workers), stored, sent)


def _scorers(problem: LanguageProblem) -> Sequence[Scorer]:
    found: list[Scorer] = []
    parts: list[PairProblem | SetProblem] = list(problem.counted_parts.values())
    for part in parts:
        found.append(part.scorer)
        parts += part.draws if isinstance(part, PairProblem) else []
    return found


def _donor_bytes(model: LanguageModel, space: ComponentSpace, scorer: Scorer) -> int:
    if not isinstance(scorer.source, RECORDED):
        return scorer.donors.nbytes
    places = tuple(dict.fromkeys(place for place, _ in Slots.of(model, space).spots))
    return recorded_bytes(scorer.pairs, places, scorer.packing, model.dtype)


def _stored_bytes(scorer: Scorer) -> int:
    """Of all batches of a scorer: each is put in the store once, and fetched by who runs it."""
    total, numbers = 0, count()

    def put(value: Batch | Runs) -> Sent:
        nonlocal total
        total += layout_bytes(value.layout) + sum(len(repr(pair)) for pair in value.pairs)
        return Sent(str(next(numbers)), None)

    cut = Cut(scorer, scorer.packing, put)
    for layout in scorer.all_layouts:
        cut.batch(layout)
    return total


def layout_bytes(layout: Layout) -> int:
    """Of the tensors of a layout and of those beside it."""
    own = [getattr(layout, field.name) for field in fields(layout)]
    tensors = [*(one for one in own if isinstance(one, Tensor)), *layout.roles.values()]
    return sum(one.numel() * one.element_size() for one in tensors) + sum(map(layout_bytes, layout.beside))
