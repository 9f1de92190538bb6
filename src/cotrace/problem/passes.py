"""Forward passes: how much memory they may take, how many tokens each holds, and what may share a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Literal

import psutil
import torch
from torch import Tensor

from cotrace.batches import EncodedPair, FrequencyLimit, Layout, Packing, answer_layouts
from cotrace.batches.packing import longest_span
from cotrace.batches.segments import donor_pair
from cotrace.donors import DonorSource
from cotrace.errors import AlignmentError, InputError
from cotrace.interventions import LayerInputs, forward, keep_prefixes
from cotrace.models import LanguageModel
from cotrace.models.attention_interface import fresh_frequencies, rope_limits
from cotrace.models.hooks import REFUSALS, headless
from cotrace.models.language_model import evaluating
from cotrace.prompts import PromptPair

SHARE = 0.5
"""Share of the free memory that donor values and kept prefixes may take by default."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]i?)?(b|bytes?)?\s*", re.IGNORECASE)
CGROUP = Path("/sys/fs/cgroup")


def memory_budget(given: str | float | int | None, device: torch.device) -> int:
    """Bytes: of a size (4GB, 512MiB), of a share of what is free (0.5), or of half of it where None. InputError."""
    if given is None:
        return int(SHARE * free_memory(device))
    number, unit = _parsed(given)
    if unit is None and number <= 1:
        return int(number * free_memory(device))
    return int(number * UNITS[(unit or "").lower()])


def is_size(given: str | float | int) -> bool:
    """Whether this is a number of bytes, which is the same on every machine and at any time."""
    number, unit = _parsed(given)
    return unit is not None or number > 1


def check_memory(given: str | float | int | None) -> None:
    """Raise InputError for a value that is neither a size nor a share."""
    if given is not None:
        _parsed(given)


def _parsed(given: str | float | int) -> tuple[float, str | None]:
    """The number, and its unit; a plain number up to 1 is a share. Raises InputError."""
    found = SIZE.fullmatch(str(given))
    if found is None or float(found[1]) <= 0 or isinstance(given, bool):
        raise InputError(
            f"memory {given!r} is neither a size nor a share of what is free: write 4GB, 512MiB or 0.5, say"
        )
    return float(found[1]), "" if found[3] and not found[2] else found[2]


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of main memory what the system or its container leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free, left = int(psutil.virtual_memory().available), _container()
    return free if left is None else max(0, min(free, left))


def _container() -> int | None:
    """Memory that a control group leaves; None where there is no bound."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdigit() else None


def kept_budget(given: str | float | int | None, model: LanguageModel, tokens: int) -> int:
    """Bytes for donor values and kept prefixes: of a size what a pass of so many tokens leaves, half of it at least."""
    most = memory_budget(given, model.device)
    return most - min(most // 2, tokens * token_bytes(model)) if given is not None and is_size(given) else most


def check_budget(given: str | float | int, budget: int, least: int) -> None:
    """Raise InputError where a budget that was given is below what one forward pass needs."""
    if budget < least:
        raise InputError(
            f"memory {given} ({budget:,} bytes) is below the minimum of {least:,} bytes, which the donor values of one "
            "forward pass take: give at least that, or fewer batch_tokens"
        )


ACTIVATION_BYTES = {"cpu": 2**30}
OTHER_ACTIVATION_BYTES = 2**34
"""Activations that one forward pass with gradient may hold, by kind of device; fixed, so that a batch plan does not
depend on what else the machine is doing."""
BYTES_PER_TOKEN_FACTOR = 34
"""Activations per token and layer, in units of d_model numbers: what a layer saves for its backward pass."""
LOGIT_COPIES = 3
FEWEST_TOKENS, MOST_TOKENS = 256, 16_384
Rows = Literal["measured", "packed", "plain"]
"""How examples are put into rows: several to one where the model allows, one for each, or what is quicker."""
MEASURED_BELOW = 1_000_000
"""Parameters of the models for which that is measured. With more, products rule the cost: the fewest tokens win."""
MEASURED_TOKENS, MEASURED_PASSES = 512, 5
"""Tokens of the sample that is timed, and how often: a tenth to a quarter of a second of such a model's time."""
CLEARLY = 0.9
"""Plain rows are taken where they need at most this share of the time: by less, chance would choose."""


def choose_packing(
    model: LanguageModel,
    pairs: Sequence[EncodedPair],
    batch_tokens: int | None,
    pack: bool = True,
    reference: Sequence[EncodedPair] = (),
    memory: int | None = None,
) -> Packing:
    """How these pairs, and ``reference`` prompts, are run, within so many bytes where they are given.

    Packed rows where the model gives the same logits with them and no window or mask is shorter than an example.
    """
    tokens = batch_tokens or default_batch_tokens(model, memory)
    longest = max(pair.span for pair in pairs)
    window = shortest_window(model)
    fits = window is None or longest <= window
    limit = mask_length(model)
    fits = fits and (limit is None or longest_span(pairs) <= limit)
    trials = model.once(Trials)
    frequencies = trials.frequency_limit(max(pair.fed for pair in (*pairs, *reference)))
    packed = pack and fits and trials.packed_rows
    kept = packed and trials.kept_prefixes
    shortcuts = trials.shortcuts
    packing = Packing(packed, tokens, row_limit=limit, keep_prefix=kept, shortcuts=shortcuts, frequencies=frequencies)
    return packing.holding(tokens)


def quicker(model: LanguageModel, pairs: Sequence[EncodedPair], source: DonorSource, packing: Packing) -> Packing:
    """The packing, or plain rows where forward passes over a sample of the pairs are clearly quicker with them."""
    if not packing.packed or model.module.num_parameters() >= MEASURED_BELOW:
        return packing
    tokens = sum(pair.fed for pair in pairs)
    few: Sequence[EncodedPair] = pairs[:: -(-tokens // MEASURED_TOKENS)]
    if packing.keep_prefix:
        few = [replace(pair, prefix=source.prefix(pair) if packing.keeps_prefix(pair) else 0) for pair in few]
    plain = replace(packing, packed=False, keep_prefix=False)
    runs = [_sample(model, few, some) for some in (packing, plain)]
    seconds = [[_timed(run) for run in runs] for _ in range(1 + MEASURED_PASSES)][1:]  # the first finds all cold
    packed_s, plain_s = map(min, zip(*seconds, strict=True))
    return plain if plain_s <= CLEARLY * packed_s else packing


@torch.no_grad()
def _sample(model: LanguageModel, pairs: Sequence[EncodedPair], packing: Packing) -> Callable[[], None]:
    """Forward passes over these pairs; they are over when the last logits have come to the processor."""
    layouts = [one for whole in answer_layouts(pairs, range(len(pairs)), packing) for one in whole.passes]
    kept = keep_prefixes(model, pairs, packing) if packing.keep_prefix else None
    caches = [None if kept is None else kept.for_layout(layout, 1) for layout in layouts]

    @torch.no_grad()
    def run() -> None:
        for layout, cache in zip(layouts, caches, strict=True):
            forward(model, layout, [], cache=cache)[..., 0].cpu()

    return run


def _timed(run: Callable[[], None]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began


def check_frequencies(pairs: Sequence[EncodedPair], packing: Packing, after: int) -> None:
    """Raise AlignmentError for a donor run whose prompt has other values with one answer than with another."""
    for pair in pairs:
        if len(packing.answers_by_kind(donor_pair(pair))) > 1:
            raise AlignmentError(
                f"pair {pair.pair.id}: its answers differ in length about the {after} tokens "
                "above which the model's RoPE takes other frequencies, so its donor prompt has two sets of values: "
                "use positions prompt, or shorter prompts"
            )


def default_batch_tokens(model: LanguageModel, memory: int | None = None) -> int:
    """Tokens whose activations take about a gibibyte (on an accelerator sixteen), at most half of ``memory``."""
    budget = ACTIVATION_BYTES.get(model.device.type, OTHER_ACTIVATION_BYTES)
    if memory is not None:
        budget = min(budget, memory // 2)
    return int(min(MOST_TOKENS, max(FEWEST_TOKENS, budget // token_bytes(model))))


def token_bytes(model: LanguageModel) -> int:
    """Activations of a token in a forward pass with gradient, logits included."""
    vocabulary, width = model.module.get_input_embeddings().weight.shape
    numbers = BYTES_PER_TOKEN_FACTOR * width * len(model.layers) + LOGIT_COPIES * vocabulary
    return int(numbers * model.dtype.itemsize)


def shortest_window(model: LanguageModel) -> int | None:
    """The shortest attention window or chunk that the configuration names; None where attention is unbounded."""
    config = model.module.config.get_text_config()
    named = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return min((w for w in named if isinstance(w, int) and w > 0), default=None)


def mask_length(model: LanguageModel) -> int | None:
    """The side of the smallest causal mask that the model keeps ready, and cuts to a row; None where there is none.

    GPT-2 has one up to transformers 5.0. Its columns are places in the row, not positions in the text.
    """
    side = getattr(model.module.config.get_text_config(), "max_position_embeddings", None)
    squares = [b for b in model.module.buffers() if b.ndim >= 2 and b.shape[-2:] == (side, side) and not b.is_meta]
    return min((b.shape[-1] for b in squares if _is_causal(b[(0,) * (b.ndim - 2)])), default=None)


def _is_causal(square: torch.Tensor) -> bool:
    seen = square != 0
    return bool(seen.diagonal().all()) and not bool(seen.triu(1).any())


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
        packing = Packing(packed, FEWEST_TOKENS, frequencies=self.frequency_limit(longest))
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
