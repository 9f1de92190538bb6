"""Scorer: answer scores under masks, from forward passes of which as little as possible is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing, answer_layouts
from cotrace.components import ComponentSpace
from cotrace.donors import Donors, DonorSource
from cotrace.donors.recorded import Spot
from cotrace.errors import InputError, NonFiniteError
from cotrace.interventions import (
    DelayedPrefixes,
    Entry,
    FeaturePatch,
    LayerInputs,
    Patch,
    PrefixCache,
    edits_of,
    forward,
)
from cotrace.interventions.forward import answer_lengths, answer_scores, next_logits
from cotrace.interventions.storage import Keep, NoRoom, in_memory
from cotrace.metrics.metric import Reads
from cotrace.models import LanguageModel
from cotrace.models.hooks import Edits
from cotrace.models.language_model import ModelState
from cotrace.problem.batching import Batching, Passes, Replan, Slots, component_layers, reference, release
from cotrace.problem.losses import BatchLoss, Measure

if TYPE_CHECKING:
    pass


@runtime_checkable
class Executor(Protocol):
    """Runs the batches of a scorer. What comes back does not depend on where."""

    @property
    def elsewhere(self) -> bool:
        """Whether batches are run by others, which make donor values and prefixes themselves."""

    def scores(
        self, scorer: Scorer, masks: Float[Tensor, "mask n"], layouts: Sequence[Layout], measure: Measure | None = None
    ) -> Iterator[tuple[Layout, Float[Tensor, "mask example ..."]]]:
        """The scores of each layout's examples under all masks, in any order, or what is measured of them."""

    def slopes(
        self, scorer: Scorer, z: Float[Tensor, "n"], loss: BatchLoss, layouts: Sequence[Layout]
    ) -> Iterator[Float[Tensor, "n"]]:
        """The gradient of each layout's loss, in the order of the plan: floating-point sums depend on it."""


class Here:
    """This process."""

    elsewhere = False

    def scores(
        self, scorer: Scorer, masks: Float[Tensor, "mask n"], layouts: Sequence[Layout], measure: Measure | None = None
    ) -> Iterator[tuple[Layout, Float[Tensor, "mask example ..."]]]:
        """One layout after the other."""
        for layout in layouts:
            yield layout, scorer.batch_scores(masks, layout, measure=measure)[1]

    def slopes(
        self, scorer: Scorer, z: Float[Tensor, "n"], loss: BatchLoss, layouts: Sequence[Layout]
    ) -> Iterator[Float[Tensor, "n"]]:
        """One layout after the other."""
        for layout in layouts:
            yield scorer.batch_slope(z, loss, layout)


HERE = Here()


EXECUTOR: ContextVar[Executor] = ContextVar("executor", default=HERE)
"""Executor of the batches of problems that are made now."""


@contextmanager
def executing(executor: Executor) -> Iterator[None]:
    """Problems that are made inside run their batches there."""
    before = EXECUTOR.set(executor)
    try:
        yield
    finally:
        EXECUTOR.reset(before)


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
        keep: Keep = in_memory,
        source: DonorSource | None = None,
        executor: Executor = HERE,
        columns: int | None = None,
        memory: str | float | int | None = None,
    ) -> None:
        self.model, self.pairs, self.space, self.donors, self._packing = model, pairs, space, donors, packing
        self._slots = Slots.of(model, space)
        self.spots = self._slots.spots
        self.layers = component_layers(space)
        self.eager = any(place.side == "pattern" for place, _ in self.spots)
        self.mean, self.reads, self.prefix, self._keep = mean, reads, prefix, keep
        self.source, self.executor, self._columns, self.memory = source, executor, columns, memory
        self.lengths = answer_lengths(pairs, columns) if mean else None
        self.batching, self.state = batching or Batching(packing.batch_tokens), state
        self.dtype = model.compute_dtype
        self._whole: tuple[int, list[Layout]] | None = None
        self._last: tuple[Layout, dict[Spot, Patch]] | None = None

    def over(self, pairs: Sequence[EncodedPair], space: ComponentSpace) -> Scorer:
        """The same on another space: ``pairs`` are these pairs with the position roles that it names."""
        other, slots = copy(self), Slots.of(self.model, space)
        other.pairs, other.space = pairs, space
        vars(other).update(_whole=None, _last=None, _slots=slots)
        other.spots, other.layers = slots.spots, component_layers(space)
        return other

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
        """The batch plan over all pairs."""
        return self.layouts(None)

    def layouts(self, examples: Sequence[int] | None) -> list[Layout]:
        """The batch plan over some of the pairs, or all; that is made anew only when the batching changes."""
        if examples is not None:
            return answer_layouts(self.pairs, examples, self.packing)
        tokens = self.batching.tokens
        if self._whole is None or self._whole[0] != tokens:
            self._whole = tokens, answer_layouts(self.pairs, range(len(self.pairs)), self.packing)
        return self._whole[1]

    @cached_property
    def base(self) -> Float[Tensor, "example answer"]:
        """Scores of the base run; of logits there are many, so they share the memory budget.

        Raises NonFiniteError naming the pair, InputError where neither memory nor disk has room.
        """
        shape = (1, len(self.pairs), self.columns)
        like = torch.empty(0, dtype=self.dtype)
        try:
            table = in_memory(like, shape) if self.reads == "answers" else self._keep(like, shape)
        except NoRoom:
            raise InputError(
                f"the base run's logits of {len(self.pairs):,} pairs have no room in memory or on disk: give fewer "
                "pairs, or a metric that reads answers"
            ) from None
        self.scores(torch.zeros(1, len(self.space), dtype=like.dtype), table=table)
        for pair, scores in zip(self.pairs, table[0], strict=True):
            if not bool(torch.isfinite(scores).all()):
                raise NonFiniteError(f"pair {pair.pair.id}: the base run's score is not finite; try dtype='float32'")
        return table[0]

    @torch.no_grad()
    def scores(
        self,
        masks: Float[Tensor, "mask n"],
        examples: Sequence[int] | None = None,
        measure: Measure | None = None,
        table: Float[Tensor, "mask example ..."] | None = None,
    ) -> Float[Tensor, "mask example ..."]:
        """Scores of every answer under each mask, examples in the order given (file order where None).

        With a ``measure`` what it makes of each example's scores, batch by batch. ``table`` is filled where given.
        """
        if self.state is not None:
            self.state.check()
        order = range(len(self.pairs)) if examples is None else examples
        row = {example: i for i, example in enumerate(order)}
        if table is None:
            columns = (self.columns,) if measure is None else ()
            table = torch.zeros(len(masks), len(order), *columns, dtype=self.dtype)
        for layout, found in self.executor.scores(self, masks, self.layouts(examples), measure):
            table[:, [row[example] for example in layout.examples]] = found
        return table

    @torch.no_grad()
    def batch_scores(
        self,
        masks: Float[Tensor, "mask n"],
        layout: Layout,
        passes: Sequence[int] | None = None,
        measure: Measure | None = None,
    ) -> tuple[Int[Tensor, "some"], Float[Tensor, "some example ..."]]:
        """Scores of one layout's examples, or what is measured of them, and which masks they are of.

        Of all masks, or of those of some of ``passes_of`` it.
        """
        planned = self.passes_of(masks, layout)
        chosen = planned if passes is None else planned.some(passes)
        columns = (self.columns,) if measure is None else ()
        table = torch.zeros(len(masks), len(layout.examples), *columns, dtype=self.dtype)
        done = 0
        try:
            for some, found in self._passes(masks, chosen, layout):
                table[some] = found if measure is None else measure(found, layout.examples)
                done += 1
        except Replan:
            pass
        if done < len(chosen.each):
            self._fill(table, masks, chosen.some(range(done, len(chosen.each))).masks, layout, measure)
        return (torch.arange(len(masks)), table) if passes is None else (chosen.masks, table[chosen.masks])

    def _fill(
        self, table: Tensor, masks: Tensor, which: Int[Tensor, "some"], layout: Layout, measure: Measure | None
    ) -> None:
        """Put what did not fit in one pass in the table: the scores under some of the masks, in smaller parts."""
        release(self.model.device)
        for smaller in self.layouts(layout.examples):
            at = torch.tensor([layout.examples.index(example) for example in smaller.examples])
            table[which[:, None], at] = self.batch_scores(masks[which], smaller, measure=measure)[1]

    def passes_of(self, masks: Float[Tensor, "mask n"], layout: Layout) -> Passes:
        """Return passes of as many masks as fit, from the layer on where they differ from what all have in common."""
        step = max(1, self.batching.tokens // layout.cost)
        shared = reference(masks, self.layers, len(self.model.layers)) if self._packing.shortcuts else None
        if shared is None:
            return Passes([(some, 0) for some in torch.split(torch.arange(len(masks)), step)])
        each = [(some, layer) for layer, members in shared.groups for some in torch.split(members, step)]
        return Passes(each, shared.mask)

    def _passes(
        self, masks: Float[Tensor, "mask n"], passes: Passes, layout: Layout
    ) -> Iterator[tuple[Int[Tensor, "some"], Float[Tensor, "some example answer"]]]:
        """One forward pass after the other: which masks it had, and their scores. Raises Replan."""
        with self.batching.passing(layout):
            patches = self.patches(layout)
        layer_inputs = LayerInputs(list(dict.fromkeys(layer for _, layer in passes.each if layer > 0)))
        if passes.common is not None and layer_inputs.wanted:
            with self.batching.passing(layout):
                self.run(passes.common[None], layout, patches, layer_inputs=layer_inputs)
        for some, layer in passes.each:
            with self.batching.passing(layout, len(some)):
                found = self.run(masks[some], layout, patches, layer_inputs.entries.get(layer))
            yield some, found

    def patches(self, layout: Layout) -> dict[Spot, Patch]:
        """The donor's part in a layout. The last one is kept: masks and steps come to one layout again and again."""
        if self._last is None or self._last[0] is not layout:
            self._last = None  # before another takes its room
            self._last = layout, self.donors.patches(layout, self.spots)
        return self._last[1]

    def slope(
        self, z: Float[Tensor, "n"], loss: BatchLoss, examples: Sequence[int] | None = None
    ) -> Float[Tensor, "n"]:
        """Gradient of the sum of the batches' losses."""
        if self.state is not None:
            self.state.check()
        total = torch.zeros_like(z)
        for slope in self.executor.slopes(self, z, loss, self.layouts(examples)):
            total += slope
        return total

    def batch_slope(self, z: Float[Tensor, "n"], loss: BatchLoss, layout: Layout) -> Float[Tensor, "n"]:
        """Gradient of one layout's loss."""
        try:
            with self.batching.passing(layout, gradient=True):
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
        layer_inputs: LayerInputs | None = None,
        more: Edits = (),
        first: Edits = (),
    ) -> Float[Tensor, "mask example answer"]:
        """Scores of one layout's examples, differentiable in the masks.

        ``more`` edits come behind the masks' own and ``first`` ones before them, in this forward pass and not in those
        beside it.
        """
        patches = self.patches(layout) if patches is None else patches
        copies = len(masks)
        cache = None if self.prefix is None else self.prefix.for_layout(layout, copies)
        edits = [*first, *self.edits(masks, patches, entry.start if entry else 0), *more]
        logits = forward(
            self.model,
            layout,
            edits,
            copies,
            eager=self.eager,
            cache=cache,
            entry=entry,
            layer_inputs=layer_inputs,
            recompute=self.batching.checkpointing and masks.requires_grad,
        )
        found = self._read(logits, layout)
        if layer_inputs is None:
            for other in layout.beside:
                found = found + self.run(masks, other)
        return found

    def edits(self, masks: Float[Tensor, "mask n"], patches: dict[Spot, Patch], start: int = 0) -> Edits:
        """The edits of every place from a layer on that some mask touches; a place with zeros changes nothing."""
        z, order = masks.to(self.model.device), self._slots.order
        z = z if order is None else z[:, order.to(z.device)]
        touched = z.detach().any(0) if not masks.requires_grad else torch.ones(len(self.space), dtype=torch.bool)
        edits: list[Any] = []
        for slot in self._slots.slots:
            if slot.spot[0].layer >= start and touched[slot.start : slot.stop].any():
                patch, own = patches[slot.spot], slot.mask(z)
                edits.append((patch, own) if isinstance(patch, FeaturePatch) else (slot.spot[0], patch.edit(own)))
        return edits_of(edits)

    def _read(self, logits: Float[Tensor, "mask read vocab"], layout: Layout) -> Float[Tensor, "mask example answer"]:
        """Return the metric's input: log p of each answer, summed or averaged over its tokens, or logits."""
        logits = logits.to(self.dtype)
        if self.reads == "logits":
            return next_logits(logits, layout)
        table = answer_scores(logits, layout)
        if self.lengths is not None:
            table = table / self.lengths[list(layout.examples), : table.shape[-1]]
        missing = self.columns - table.shape[-1]
        return torch.nn.functional.pad(table, (0, missing)) if missing else table
