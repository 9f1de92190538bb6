"""Scorer: answer scores of a fixed list of pairs under any mask. Donors and base scores are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing, answer_layouts
from cotrace.components import ComponentSpace
from cotrace.donors import Donors, DonorSource
from cotrace.donors.store import Spot
from cotrace.errors import NonFiniteError
from cotrace.interventions import DelayedPrefixes, Entry, Patch, PrefixCache, Stations, block_mask, forward
from cotrace.metrics.metric import Reads
from cotrace.models import LanguageModel
from cotrace.models.taps import TapList
from cotrace.models.unchanged import ModelState
from cotrace.problem.batching import Batching, Replan, release
from cotrace.problem.executor import HERE, BatchLoss, Executor
from cotrace.problem.reading import answer_lengths, answer_scores, next_logits
from cotrace.problem.reference import component_layers, reference


@dataclass(frozen=True, eq=False)
class Passes:
    """The forward passes of some masks over a layout."""

    each: Sequence[tuple[Tensor, int]]
    """The masks of each pass, and the layer that it starts at."""
    common: Float[Tensor, "n"] | None = None
    """The mask of the run that passes above the lowest layer start from; None where all start there."""

    def some(self, which: Sequence[int]) -> Passes:
        """Only these of them."""
        return Passes([self.each[i] for i in which], self.common)

    @property
    def masks(self) -> Int[Tensor, "some"]:
        """The masks of all passes, in their order."""
        return torch.cat([some for some, _ in self.each])


class Scorer:
    """Runs a model over pairs under masks. Scores are log p(answer | prompt), [mask, example, answer], on the CPU.

    ``executor`` says where the batches are run, ``source`` where donor values come from: who runs a batch elsewhere
    records them there. ``columns`` is the width of a table of scores where the pairs are some of a longer list.
    """

    def __init__(
        self,
        model: LanguageModel,
        pairs: Sequence[EncodedPair],
        space: ComponentSpace,
        donors: Donors,
        packing: Packing,
        *,
        mean: bool,
        reads: Reads = "answers",
        prefix: PrefixCache | DelayedPrefixes | None = None,
        batching: Batching | None = None,
        state: ModelState | None = None,
        source: DonorSource | None = None,
        executor: Executor = HERE,
        columns: int | None = None,
        memory: str | float | int | None = None,
    ) -> None:
        self.model, self.pairs, self.space, self.donors, self._packing = model, pairs, space, donors, packing
        self.spots = block_spots(model, space)
        self.layers = component_layers(space)
        self.eager = any(place.tap == "pattern" for place, _ in self.spots)
        self.mean, self.reads, self.prefix = mean, reads, prefix
        self.source, self.executor, self._columns, self.memory = source, executor, columns, memory
        self.lengths = answer_lengths(pairs, columns) if mean else None
        self.batching, self.state = batching or Batching(packing.batch_tokens), state
        self._whole: tuple[int, list[Layout]] | None = None

    @property
    def packing(self) -> Packing:
        """How examples share rows, with the tokens that a forward pass holds now."""
        return self._packing.holding(self.batching.tokens)

    @cached_property
    def columns(self) -> int:
        """Width of a table of scores: the most answers of a pair, or the tokens where logits are read."""
        if self._columns is not None:
            return self._columns
        if self.reads == "answers":
            return max(len(pair.answers) for pair in self.pairs)
        return int(self.model.module.get_output_embeddings().weight.shape[0])

    @property
    def all_layouts(self) -> list[Layout]:
        """The batch plan over all pairs, made anew only when the batching changes."""
        tokens = self.batching.tokens
        if self._whole is None or self._whole[0] != tokens:
            self._whole = tokens, answer_layouts(self.pairs, range(len(self.pairs)), self.packing)
        return self._whole[1]

    def layouts(self, examples: Sequence[int] | None) -> list[Layout]:
        """The batch plan over some of the pairs, or all."""
        return self.all_layouts if examples is None else answer_layouts(self.pairs, examples, self.packing)

    @cached_property
    def base(self) -> Float[Tensor, "example answer"]:
        """Scores of the base run. Raises NonFiniteError naming the pair."""
        scores = self.scores(torch.zeros(1, len(self.space), dtype=self.model.compute_dtype))[0]
        bad = ~torch.isfinite(scores).all(-1)
        if bad.any():
            pair = self.pairs[int(bad.nonzero()[0])].pair
            raise NonFiniteError(f"pair {pair.id}: the base run's score is not finite; try dtype='float32'")
        return scores

    @torch.no_grad()
    def scores(
        self, masks: Float[Tensor, "mask n"], examples: Sequence[int] | None = None
    ) -> Float[Tensor, "mask example answer"]:
        """Scores of every answer under each mask, examples in the order given (file order where None)."""
        self._check_state()
        order = list(range(len(self.pairs))) if examples is None else list(examples)
        row = {example: i for i, example in enumerate(order)}
        table = torch.zeros(len(masks), len(order), self.columns, dtype=self.model.compute_dtype)
        layouts = self.layouts(examples)
        for layout, found in self.executor.scores(self, masks, layouts):
            table[:, [row[example] for example in layout.examples]] = found
        return table

    def _check_state(self) -> None:
        """Raise ModelError where the model is not the one whose donor values and base scores these are."""
        if self.state is not None:
            self.state.check()

    @torch.no_grad()
    def batch_scores(
        self, masks: Float[Tensor, "mask n"], layout: Layout, passes: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "some"], Float[Tensor, "some example answer"]]:
        """Scores of one layout's examples, and which masks they are of: all, or those of some of ``passes_of`` it."""
        planned = self.passes_of(masks, layout)
        chosen = planned if passes is None else planned.some(passes)
        table = torch.zeros(len(masks), len(layout.examples), self.columns, dtype=self.model.compute_dtype)
        self._fill(table, {example: i for i, example in enumerate(layout.examples)}, masks, chosen, layout)
        return (torch.arange(len(masks)), table) if passes is None else (chosen.masks, table[chosen.masks])

    def _fill(self, table: Tensor, row: dict[int, int], masks: Tensor, passes: Passes, layout: Layout) -> None:
        """Put the scores of a layout's examples in the table, pass by pass; what does not fit, in smaller parts."""
        at = torch.tensor([row[example] for example in layout.examples])
        done = 0
        try:
            for some, found in self._passes(masks, passes, layout):
                table[some[:, None], at, : found.shape[-1]] = found
                done += 1
            return
        except Replan:
            pass
        release(self.model.device)
        which = passes.some(range(done, len(passes.each))).masks
        for smaller in self.layouts(layout.examples):
            again = self.passes_of(masks[which], smaller)
            own = Passes([(which[some], layer) for some, layer in again.each], again.common)
            self._fill(table, row, masks, own, smaller)

    def passes_of(self, masks: Float[Tensor, "mask n"], layout: Layout) -> Passes:
        """As many masks together as fit, from the layer on where they differ from what all have in common."""
        step = max(1, self.batching.tokens // layout.cells)
        shared = reference(masks, self.layers, len(self.model.layers)) if self.packing.shortcuts else None
        if shared is None:
            return Passes([(some, 0) for some in torch.split(torch.arange(len(masks)), step)])
        each = [(some, layer) for layer, members in shared.groups for some in torch.split(members, step)]
        return Passes(each, shared.mask)

    def _passes(
        self, masks: Float[Tensor, "mask n"], passes: Passes, layout: Layout
    ) -> Iterator[tuple[Int[Tensor, "some"], Float[Tensor, "some example answer"]]]:
        """One forward pass after the other: which masks it had, and their scores. Raises Replan."""
        with self._passing(layout):
            patches = self.donors.patches(layout, self.spots)
        stations = Stations(list(dict.fromkeys(layer for _, layer in passes.each if layer > 0)))
        if passes.common is not None and stations.wanted:
            with self._passing(layout):
                self.run(passes.common[None], layout, patches, stations=stations)
        for some, layer in passes.each:
            with self._passing(layout, len(some)):
                found = self.run(masks[some], layout, patches, stations.entries.get(layer))
            yield some, found

    def _passing(self, layout: Layout, copies: int = 1, *, gradient: bool = False) -> AbstractContextManager[None]:
        """Around one forward pass: memory that runs out inside makes the batches smaller, and raises Replan."""
        return self.batching.passing(
            copies * layout.cells,
            divisible=copies > 1 or len(layout.examples) > 1,
            gradient=gradient,
        )

    def slope(
        self, z: Float[Tensor, "n"], loss: BatchLoss, examples: Sequence[int] | None = None
    ) -> Float[Tensor, "n"]:
        """Gradient of the sum of the batches' losses."""
        self._check_state()
        total = torch.zeros_like(z)
        for slope in self.executor.slopes(self, z, loss, self.layouts(examples)):
            total += slope
        return total

    def batch_slope(self, z: Float[Tensor, "n"], loss: BatchLoss, layout: Layout) -> Float[Tensor, "n"]:
        """Gradient of one layout's loss."""
        try:
            with self._passing(layout, gradient=True):
                variable = z.clone().requires_grad_()
                return torch.autograd.grad(loss(self.run(variable[None], layout)[0], layout.examples), variable)[0]
        except Replan:
            pass
        release(self.model.device)
        return torch.stack([self.batch_slope(z, loss, smaller) for smaller in self.layouts(layout.examples)]).sum(0)

    def run(
        self,
        masks: Float[Tensor, "mask n"],
        layout: Layout,
        patches: dict[Spot, Patch] | None = None,
        entry: Entry | None = None,
        stations: Stations | None = None,
    ) -> Float[Tensor, "mask example answer"]:
        """Scores of one layout's examples, differentiable in the masks."""
        if patches is None:
            patches = self.donors.patches(layout, self.spots)
        copies = len(masks)
        cache = None if self.prefix is None else self.prefix.for_layout(layout, copies)
        taps = self._taps(masks, patches, entry.start if entry else 0)
        logits = forward(
            self.model,
            layout,
            taps,
            copies,
            eager=self.eager,
            cache=cache,
            entry=entry,
            stations=stations,
            recompute=self.batching.checkpointing and masks.requires_grad,
        )
        found = self._read(logits, layout)
        if stations is None:
            for other in layout.beside:
                found = found + self.run(masks, other)
        return found

    def _taps(self, masks: Float[Tensor, "mask n"], patches: dict[Spot, Patch], start: int) -> TapList:
        """The edits of every block from a layer on that some mask touches; a block of zeros changes nothing."""
        masks = masks.to(self.model.device)
        touched = masks.detach().any(0) if not masks.requires_grad else torch.ones(len(self.space), dtype=torch.bool)
        taps = []
        for block, spot in zip(self.space.blocks, self.spots, strict=True):
            if block.layer >= start and touched[block.start : block.stop].any():
                z = block_mask(masks, block.start, block.units, spot[0].units)
                taps.append((spot[0], patches[spot].edit(z)))
        return taps

    def _read(self, logits: Float[Tensor, "mask read vocab"], layout: Layout) -> Float[Tensor, "mask example answer"]:
        """What the metric reads: log p of each answer, summed or averaged over its tokens, or logits."""
        logits = logits.to(self.model.compute_dtype)
        if self.reads == "logits":
            return next_logits(logits, layout)
        table = answer_scores(logits, layout)
        return table if self.lengths is None else table / self.lengths[list(layout.examples), : table.shape[-1]]


def block_spots(model: LanguageModel, space: ComponentSpace) -> list[Spot]:
    """Where each block of the space lives, and the role at which it is patched."""
    places = {site: model.places(site) for site in space.sites}
    return [(places[block.site][block.layer], block.role) for block in space.blocks]
