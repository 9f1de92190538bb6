"""Probe: a gradient and a few evaluations on real batches, timed, from which the time of a search is reckoned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import is_out_of_memory
from cotrace.problem.batching import Replan
from cotrace.problem.protocol import Cost
from cotrace.problem.reference import reference
from cotrace.problem.resident import peak_growth
from cotrace.problem.scorer import Scorer

QUICK_S, SLOW_S = 0.3, 4.0
"""What takes less is timed several times; what takes more, once."""
REPEATS = 5
LONGEST_S = 8.0
"""No further evaluation is timed after this."""
HALF = 0.5
HEAD_LAYERS = 12
"""Parameters of a layer in units of d_model squared: what the output head is compared with."""


@dataclass(frozen=True)
class Rates:
    """What this machine takes for this problem."""

    gradient_s: float
    """Seconds of one gradient on all pairs that a search sees."""
    unit_s: float
    """Seconds of one unit of work of the search's evaluations: a layer over all those pairs."""
    plain_unit_s: float
    """The same where masks have nothing in common and every pass is as full as it may be."""
    peak_bytes: int | None
    """By how much memory grew at most; None where the system does not tell."""


class Probe:
    """Times what a search will do, on the largest batch of its pairs. Counts nothing as search cost."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.layouts = scorer.all_layouts
        self.largest = max(self.layouts, key=lambda layout: layout.cells)
        self.share = self.largest.cells / sum(layout.cells for layout in self.layouts)
        vocabulary, width = scorer.model.module.get_input_embeddings().weight.shape
        reads, cells = len(self.largest.read_at), self.largest.cells
        self.head_units: float = vocabulary * reads / (HEAD_LAYERS * width * cells)
        """The output head, in units of one layer."""

    def units(self, masks: Float[Tensor, "mask n"]) -> float:
        """Layers that are run for these masks, the output head counted as so many."""
        depth = len(self.scorer.model.layers)
        shared = reference(masks, self.scorer.layers, depth) if self.scorer.packing.shortcuts else None
        if shared is None:
            return len(masks) * (depth + self.head_units)
        first = depth + self.head_units if any(layer for layer, _ in shared.groups) else 0.0
        return first + float((depth - shared.starts).sum()) + len(masks) * self.head_units

    def largest_pass(self, masks: Float[Tensor, "mask n"], share: float = 1.0) -> int:
        """Tokens of the largest forward pass for these masks, over a batch so much longer than the largest here."""
        depth = len(self.scorer.model.layers)
        shared = reference(masks, self.scorer.layers, depth) if self.scorer.packing.shortcuts else None
        together = len(masks) if shared is None else max(len(members) for _, members in shared.groups)
        cells, most = share * self.largest.cells, self.scorer.batching.tokens
        return int(min(together, max(1, most // cells)) * cells)

    def rates(self, evaluations: Sequence[Float[Tensor, "_ n"]], tokens: int) -> Rates | None:
        """Time a gradient, and as many of these evaluations as there is time for; None where a batch does not fit.

        ``tokens``: those of the largest forward pass of all, which memory is measured on.
        """
        found: list[float] = []
        device = self.scorer.model.device
        try:
            with self._uncounted():
                peak = peak_growth(device, lambda: found.extend(self._timed(evaluations, self._full(tokens))))
        except Replan:
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        gradient, unit, plain = (seconds / self.share for seconds in found)
        return Rates(gradient, unit, plain, peak)

    def _full(self, tokens: int) -> Float[Tensor, "mask n"]:
        """Masks at random, for one forward pass of about so many tokens."""
        count = max(1, round(tokens / self.largest.cells))
        return (torch.rand(count, len(self.scorer.space), generator=torch.Generator().manual_seed(0)) < HALF).float()

    def _timed(
        self, evaluations: Sequence[Float[Tensor, "_ n"]], full: Float[Tensor, "mask n"]
    ) -> tuple[float, float, float]:
        """Seconds of a gradient, of a unit of evaluations, and of a unit of a full pass, on the largest batch."""
        began = time.perf_counter()
        gradient, seconds, units = self._seconds(self._gradient), 0.0, 0.0
        plain = self._seconds(lambda: self._evaluate(full)) / self.units(full)
        for masks in evaluations:
            if units and time.perf_counter() - began > LONGEST_S:
                break
            seconds += self._seconds(lambda masks=masks: self._evaluate(masks))  # type: ignore[misc]
            units += self.units(masks)
        return gradient, seconds / units if units else plain, plain

    def _gradient(self) -> None:
        z = torch.full((1, len(self.scorer.space)), 0.5, dtype=self.scorer.model.compute_dtype, requires_grad=True)
        torch.autograd.grad(self.scorer.run(z, self.largest).sum(), z)

    @torch.no_grad()
    def _evaluate(self, masks: Float[Tensor, "mask n"]) -> None:
        patches = self.scorer.donors.patches(self.largest, self.scorer.spots)
        rows = masks.to(self.scorer.model.compute_dtype)
        for some, entry in self.scorer.parts(rows, self.largest, patches):
            self.scorer.run(rows[some], self.largest, patches, entry)

    def _seconds(self, run: Callable[[], None]) -> float:
        """The median of several runs of what is quick; the first, which finds everything cold, only of what is slow."""
        first = self._once(run)
        if first > SLOW_S:
            return first
        return median(self._once(run) for _ in range(REPEATS if first <= QUICK_S else 1))

    def _once(self, run: Callable[[], None]) -> float:
        began = time.perf_counter()
        run()
        if self.scorer.model.device.type == "cuda":
            torch.cuda.synchronize(self.scorer.model.device)
        return time.perf_counter() - began

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """Passes inside are not those of the run, whose count a replay goes by."""
        cost, self.scorer.cost = self.scorer.cost, Cost()
        before = self.scorer.batching.state
        try:
            yield
        finally:
            self.scorer.cost, self.scorer.batching.state = cost, before
