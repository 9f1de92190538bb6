"""Trials: what a model takes (packed rows, kept prefixes, starts at a layer, long rows), tried once on a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from cotrace.batches import EncodedPair, FrequencyLimit, Layout, Packing, answer_layouts
from cotrace.interventions import LayerInputs, forward, keep_prefixes
from cotrace.models import LanguageModel
from cotrace.models.attention_interface import fresh_frequencies, rope_limits
from cotrace.models.hooks import REFUSALS, headless
from cotrace.models.language_model import evaluating
from cotrace.prompts import PromptPair

TOKENS = 256
"""Most in one of these passes."""
FEWEST_NEAR = 3
"""Tokens that tell whether frequencies have changed."""
NEAR_ROUNDINGS = 64
"""Roundings by which they may differ all the same: an expert's matrix product rounds by the number of its tokens."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
Passes = Sequence[tuple[Layout, Tensor]] | None
"""Rows and their logits, pass by pass; None where the model refuses them."""


class Trials:
    """The model's answers, each found when it is first asked for. ``model.once(Trials)`` keeps them."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.vocabulary = int(model.module.get_input_embeddings().weight.shape[0])
        self.limits: dict[int, FrequencyLimit | None] = {}
        self.near: dict[int, Tensor | None] = {}
        """Length of a row -> what the head reads of its first tokens: each costs a forward pass."""
        self.reach = 0
        """The longest row found whose first tokens are a short row's, as those of any shorter are."""

    @cached_property
    def packed_rows(self) -> bool:
        """Whether a row of two examples with branches gives the logits of plain rows."""
        if any(layer.attention is None for layer in self.model.layers) or not self.model.takes("position_ids"):
            return False
        return self._same(self._packed, self._plain)

    @cached_property
    def kept_prefixes(self) -> bool:
        """Whether rows that attend to kept keys and values give the logits of whole rows."""
        shortened = [replace(pair, prefix=len(pair.prompt) - 1 - i) for i, pair in enumerate(self._pairs)]
        return self._same(self._passes(shortened, packed=True), self._packed)

    @cached_property
    def shortcuts(self) -> bool:
        """Whether a run that starts in the last layer gives the logits of a whole run.

        Each layer must give a single tensor, so that it can be passed by.
        """
        entry = self._inputs.entries.get(len(self.model.layers) - 1) if self._plain else None
        if not self._plain or entry is None or not entry.start or not self._single:
            return False
        layout, whole = self._plain[0]
        try:
            with torch.no_grad():
                return self._agree(forward(self.model, layout, [], entry=entry), whole)
        except REFUSALS:
            return False

    @cached_property
    def _plain(self) -> Passes:
        """One row for each answer; what enters the last layer in the first pass is noted on the way."""
        outputs: list[bool] = []
        self._inputs = LayerInputs([len(self.model.layers) - 1])
        with ExitStack() as stack:
            for layer in self.model.layers:
                handle = layer.module.register_forward_hook(
                    lambda _, given, made: outputs.append(torch.is_tensor(made))
                )
                stack.callback(handle.remove)
            found = self._passes(self._pairs, packed=False, layer_inputs=self._inputs)
        self._single = all(outputs)
        return found

    @cached_property
    def _packed(self) -> Passes:
        return self._passes(self._pairs, packed=True)

    @cached_property
    def _pairs(self) -> list[EncodedPair]:
        def ids(start: int, count: int) -> tuple[int, ...]:
            return tuple((start + 7 * i) % self.vocabulary for i in range(count))

        pair = PromptPair(id="probe", base="probe", answers=("a", "b"))
        prompts = (ids(3, 5), ids(11, 3))
        return [EncodedPair(pair, prompt, (ids(5, 3), ids(17, 2)), (), tuple(range(len(prompt)))) for prompt in prompts]

    @torch.no_grad()
    def _passes(self, pairs: Sequence[EncodedPair], *, packed: bool, layer_inputs: LayerInputs | None = None) -> Passes:
        model, longest, found = self.model, max(pair.fed for pair in pairs), list[tuple[Layout, Tensor]]()
        packing = Packing(packed, TOKENS, frequencies=self.frequency_limit(longest))
        try:
            kept = keep_prefixes(model, pairs, packing)
            layouts = answer_layouts(pairs, range(len(pairs)), packing)
            for layout in (layout for whole in layouts for layout in whole.passes):
                cache = None if kept is None else kept.for_layout(layout, 1)
                first = None if found else layer_inputs
                found.append((layout, forward(model, layout, [], cache=cache, layer_inputs=first)))
        except REFUSALS:
            return None
        return found

    def _same(self, one: Passes, other: Passes) -> bool:
        """Whether the log-probability of every scored token is the same, whatever the rows."""
        return bool(one and other) and self._agree(self._scores(one), self._scores(other))

    def _scores(self, passes: Passes) -> Tensor:
        """By example, answer and place."""
        total: list[Tensor] = []
        for layout, logits in passes or ():
            log_p = logits[0].double().log_softmax(-1)
            values = log_p[layout.scored_read.to(log_p.device), layout.scored_token.to(log_p.device)].cpu()
            cells = torch.zeros(len(self._pairs), layout.answers, dtype=torch.float64)
            at = torch.tensor(layout.examples)[layout.scored_cell // layout.answers]
            total.append(cells.index_put((at, layout.scored_cell % layout.answers), values, accumulate=True))
        return torch.stack(total).sum(0)

    def _agree(self, one: Tensor, other: Tensor) -> bool:
        scale = other.abs().max().clamp(min=1.0)
        return bool((one - other).abs().max() <= TOLERANCE.get(self.model.dtype, 1e-4) * scale)

    def frequency_limit(self, longest: int) -> FrequencyLimit | None:
        """Return the length from which a row's frequencies depend on the longest row beside it, for rows up to
        ``longest``; None: nowhere.

        Known of transformers' own rotary modules; of others found by trying: does a token far away change earlier ones?
        """
        if longest not in self.limits:
            self.limits[longest] = self._limit(longest)
        return self.limits[longest]

    def _limit(self, longest: int) -> FrequencyLimit | None:
        if self.model.most_tokens is not None or longest < FEWEST_NEAR + 1:
            return None
        known = rope_limits(self.model.module)
        if known:
            after = min(limit for limit, _ in known)
            return FrequencyLimit(after, stepped=known == {(after, True)}) if after < longest else None
        return self._tried_limit(longest)

    def _tried_limit(self, longest: int) -> FrequencyLimit | None:
        low, high = FEWEST_NEAR + 1, longest
        tried = max(pair.fed for pair in self._pairs)  # one pass tells of these rows too
        if self._near(low) is None or self._is_near(max(high, tried)) or self._is_near(high):
            return None
        while high - low > 1:  # the first is like the near one, the second is not
            middle = (low + high) // 2
            low, high = (middle, high) if self._is_near(middle) else (low, middle)
        first, last = self._near(high), self._near(longest)
        if first is not None and last is not None and torch.equal(first, last) and high < longest:
            return FrequencyLimit(low, stepped=True)
        # A change that grows with length is seen late: nothing longer than a limit that is named shares a pass.
        named = [length for length in named_lengths(self.model) if length <= low]
        return FrequencyLimit(max(named, default=0), stepped=False)

    def _is_near(self, length: int) -> bool:
        """Whether the first tokens of so long a row are a short row's."""
        near, found = self._near(FEWEST_NEAR + 1), None if length <= self.reach else self._near(length)
        if near is not None and found is not None:
            closest = NEAR_ROUNDINGS * torch.finfo(near.dtype).eps * near.abs().max().clamp(min=1.0)
            self.reach = length if bool((found - near).abs().max() <= closest) else self.reach
        return length <= self.reach

    def _near(self, length: int) -> Tensor | None:
        """Return what the head reads of a few first tokens where the last one stands at the end of so long a row.

        None where the model refuses it.
        """
        if length not in self.near:
            self.near[length] = self._first_tokens(length) if self.model.takes("position_ids") else None
        return self.near[length]

    @torch.no_grad()
    def _first_tokens(self, length: int) -> Tensor | None:
        module, device = self.model.module, self.model.device
        ids = torch.tensor([[(3 + 7 * i) % self.vocabulary for i in range(FEWEST_NEAR + 1)]], device=device)
        positions = torch.tensor([[*range(FEWEST_NEAR), length - 1]], device=device)
        try:
            with evaluating(module), fresh_frequencies(module), headless(module) as read:
                found = module(
                    input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False
                )
        except REFUSALS:
            return None
        return (read[0] if read else found.logits).reshape(len(positions[0]), -1)[:FEWEST_NEAR].cpu()


def named_lengths(model: LanguageModel) -> set[int]:
    """Lengths that the configuration names as those of training, or the most."""
    config = model.module.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    tables = [config.to_dict(), rope, *(inner for inner in rope.values() if isinstance(inner, dict))]
    names = ("original_max_position_embeddings", "max_position_embeddings")
    return {value for table in tables for name in names if isinstance(value := table.get(name), int)}
