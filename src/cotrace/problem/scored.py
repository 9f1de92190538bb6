"""ScoredPairs: scores of one fixed list of pairs under masks, counted, and what a metric needs beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.arguments import check_kind
from cotrace.components import ComponentSpace
from cotrace.errors import DegenerateError, InputError
from cotrace.metrics import Answers, Metric, SetMetric
from cotrace.problem.masks import as_masks
from cotrace.problem.protocol import Cost, Examples, Mode
from cotrace.problem.scorer import Scorer

TABLE_NUMBERS = 1 << 27
"""Most numbers in one table of scores: 512 MiB in float32. Only tables of logits come near it."""
PIECE_NUMBERS = 1 << 22
"""Most numbers of a table that are looked at together: what is made of them takes several times their room."""
ROUNDINGS, ULPS = 8, 16
"""So many times the base scores are rounded anew, each by up to so many units in the last place of the model's type."""
SMALLEST_SWING = 1e-6
"""Below this effect of the full swap, faithfulness has no denominator."""


def piece_rows(base: Tensor) -> int:
    """Rows of a table of scores that are looked at together."""
    return max(1, PIECE_NUMBERS // base.shape[1])


def rounding(base: Tensor, kind: torch.dtype, change: Callable[[Iterable[Tensor]], Tensor]) -> float:
    """The largest of some changes that these scores make when each is off by as much as rounding in a type may be."""
    draw = torch.Generator().manual_seed(0)

    def noisy(rows: Tensor) -> Tensor:
        unit = ULPS * torch.finfo(kind).eps * rows.abs().clamp(min=1)
        return rows + unit * (2 * torch.rand(rows.shape, generator=draw, dtype=rows.dtype) - 1)

    pieces = torch.split(base, piece_rows(base))
    return max(abs(change(map(noisy, pieces)).item()) for _ in range(ROUNDINGS))


M = TypeVar("M", Metric, SetMetric)


class ScoredPairs(Generic[M]):
    """What problems of both kinds of metric stand on. Raises InputError where the pairs lack what the metric needs."""

    def __init__(self, scorer: Scorer, metric: M, mode: Mode) -> None:
        self.scorer, self.mode = scorer, mode
        self.metric: M = metric
        self.dtype = scorer.model.compute_dtype
        self.answers = Answers.of([encoded.pair for encoded in scorer.pairs], self.dtype)
        self.use_cost(Cost())
        if not bool(self.answers.weight.sum() > 0):
            raise InputError("the weights of the pairs add up to 0: give at least one pair a weight above 0")
        try:
            metric.check(self.answers)
        except InputError as error:
            raise InputError(f"metric {metric.name}, {self.size} pairs of this part of the data: {error}") from None

    def use_cost(self, cost: Cost, unit: float = 1.0) -> None:
        """Count there; one mask on all pairs of this part is ``unit``."""
        self.cost, self.unit = cost, unit

    def charge(self, amount: float) -> None:
        """Count so many masks on all pairs of this part."""
        self.cost.charge(self.unit * amount)

    @property
    def space(self) -> ComponentSpace:
        return self.scorer.space

    @property
    def size(self) -> int:
        return len(self.scorer.pairs)

    @property
    def ids(self) -> list[str]:
        """Ids of the pairs, in file order."""
        return [encoded.pair.id for encoded in self.scorer.pairs]

    @property
    def weights(self) -> Float[Tensor, "example"]:
        """How much each pair counts in the aggregate."""
        return self.answers.weight

    @cached_property
    def full_scores(self) -> Float[Tensor, "example answer"]:
        """Scores under the full swap. Not counted as search cost: it is part of the question."""
        return self.scorer.scores(torch.ones(1, len(self.space), dtype=self.dtype))[0]

    @cached_property
    def rounding(self) -> float:
        """What rounding alone can make of the aggregate effect, by the type that activations pass through.

        The largest of some changes that scores make when each is off by up to 16 units in the last place, as different
        matrix products leave them; metrics of the user's own are asked as all others are.
        """
        return rounding(self.scorer.base, self.scorer.model.rounding_dtype, self.change)

    def change(self, pieces: Iterable[Float[Tensor, "some answer"]]) -> Float[Tensor, ""]:
        """The aggregate change of the metric that scores, given piece by piece, make against the base run."""
        raise NotImplementedError

    @cached_property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return float(self.metric.reported(self.scorer.base, self.scorer.base, self.answers))

    def check_swing(self, swing: Tensor) -> Tensor:
        """The denominator of faithfulness. Raises DegenerateError where it is near 0, or within rounding."""
        if abs(swing.item()) <= max(SMALLEST_SWING, self.rounding):
            raise DegenerateError(
                f"swapping everything moves {self.metric.name} by {swing.item():.2g} on average, which rounding alone "
                "may do: there is no difference between base and donor run to restore; use mode='swap', or pairs that "
                "differ"
            )
        return swing

    def masks(self, masks: Any) -> Float[Tensor, "*mask n"]:
        """Masks as a tensor. Raises InputError."""
        return as_masks(masks, self.space, self.mode, self.dtype)

    def scores(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example answer"]:
        """What the metric reads, under one mask or several. Counts as an evaluation."""
        z = self.masks(masks)
        some = self.some(examples)
        self.charge(self.share(some) * (len(z) if z.ndim == 2 else 1))
        scores = self.scorer.scores(z if z.ndim == 2 else z[None], some)
        return scores if z.ndim == 2 else scores[0]

    def chunks(self, masks: Any, examples: Examples = None) -> Iterator[Float[Tensor, "mask example answer"]]:
        """The same, as many masks at a time as their scores fit in memory."""
        z = self.masks(masks).reshape(-1, len(self.space))
        for rows in torch.split(z, max(1, TABLE_NUMBERS // self.scorer.base.numel())):
            yield self.scores(rows, examples)

    def side_values(self, masks: Any) -> Float[Tensor, "*mask side"]:
        """No constraints: no columns."""
        z: Tensor = self.masks(masks)
        return z.new_zeros((*z.shape[:-1], 0))

    def some(self, examples: Examples) -> list[int] | None:
        """Examples as a list. Raises InputError."""
        if examples is None:
            return None
        check_kind("examples", "the list", examples, Sequence[int])
        some = [int(example) for example in examples]
        if not some or min(some) < 0 or max(some) >= self.size or len(set(some)) != len(some):
            raise InputError(f"examples must be different indices from 0 to {self.size - 1}, at least one")
        return some

    def share(self, some: Sequence[int] | None) -> float:
        """How much of all pairs these are."""
        return 1.0 if some is None else len(some) / self.size

    def _shaped(self, chunks: Sequence[Tensor], masks: Any) -> Tensor:
        """Chunks put together, in the shape that the masks were given in."""
        together: Tensor = torch.cat(list(chunks))
        return together.reshape((*self.masks(masks).shape[:-1], *together.shape[1:]))
