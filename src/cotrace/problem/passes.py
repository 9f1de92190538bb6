"""Forward passes: how many tokens each holds, what may share a row, and what is done when memory runs out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import psutil
import torch

from cotrace.batches import EncodedPair, FrequencyLimit, Packing, answer_layouts
from cotrace.batches.packing import longest_span
from cotrace.batches.segments import donor_pair
from cotrace.donors import DonorSource
from cotrace.errors import AlignmentError, InputError, is_out_of_memory
from cotrace.interventions import LayerInputs, forward, keep_prefixes
from cotrace.models import LanguageModel
from cotrace.models.attention_interface import fresh_frequencies, rope_limits
from cotrace.models.hooks import REFUSALS
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


def is_size(given: str | float | int | None) -> bool:
    """Whether this is a number of bytes, which is the same on every machine and at any time."""
    if given is None:
        return False
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
    return most - min(most // 2, tokens * token_bytes(model)) if is_size(given) else most


def check_budget(given: str | float | int, budget: int, least: int) -> None:
    """Raise InputError where a budget that was given is below what one forward pass needs."""
    if budget < least:
        raise InputError(
            f"memory {given} ({budget:,} bytes) is below the minimum of {least:,} bytes, which the donor values of one "
            "forward pass take: give at least that, or fewer batch_tokens"
        )


Checkpointing = Literal["auto", "on", "off"]


class Replan(Exception):
    """The batch in hand does not fit any more: lay its examples out anew and go on."""


@dataclass(frozen=True)
class Event:
    """A change of the batching, because memory ran out."""

    batch_tokens: int
    checkpointing: bool


class Batching:
    """Batch size that all parts of a problem share: the tokens of a forward pass now, and the changes so far."""

    def __init__(self, tokens: int, checkpointing: Checkpointing = "auto") -> None:
        self.first_tokens = self.tokens = tokens
        self.option = checkpointing
        self.checkpointing = checkpointing == "on"
        self.events: list[Event] = []

    @contextmanager
    def passing(self, tokens: int, *, divisible: bool, gradient: bool) -> Iterator[None]:
        """Around one forward pass of so many tokens. Raises Replan once it is known that it will not fit.

        Raises InputError where nothing smaller is left to try.
        """
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._shrink(tokens, divisible=divisible, gradient=gradient)
            raise Replan from None

    def _shrink(self, tokens: int, *, divisible: bool, gradient: bool) -> None:
        """Half the tokens; a single example recomputes its layers' activations where that may help."""
        if divisible and self.tokens > 1:
            self.tokens = max(1, min(self.tokens, tokens) // 2)
        elif gradient and self.option == "auto" and not self.checkpointing:
            self.checkpointing = True
        else:
            raise InputError(
                f"out of memory in a forward pass of one pair alone ({tokens} tokens): use shorter prompts or answers, "
                "a smaller dtype such as bfloat16, checkpointing=on, or a device with more memory"
            ) from None
        self.events.append(Event(self.tokens, self.checkpointing))

    def follow(self, events: Sequence[Event]) -> None:
        """Take over what memory forced where a batch was run elsewhere, so that those to come are as small."""
        for event in events:
            if event.batch_tokens < self.tokens or (event.checkpointing and not self.checkpointing):
                self.tokens = min(self.tokens, event.batch_tokens)
                self.checkpointing = self.checkpointing or event.checkpointing
                self.events.append(Event(self.tokens, self.checkpointing))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        events = [asdict(event) for event in self.events]
        return {"batch_tokens": self.first_tokens, "checkpointing": self.option, "events": events}


def release(device: torch.device) -> None:
    """Give cached blocks back after a pass that did not fit."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


ACTIVATION_BYTES = {"cpu": 2**30}
OTHER_ACTIVATION_BYTES = 2**34
"""Activations that one forward pass with gradient may hold, by kind of device; fixed, so that a batch plan does not
depend on what else the machine is doing."""
BYTES_PER_TOKEN_FACTOR = 34
"""Activations per token and layer, in units of d_model numbers: what a layer saves for its backward pass."""
LOGIT_COPIES = 3
FEWEST_TOKENS, MOST_TOKENS = 256, 16_384
FEWEST_NEAR = 3
"""Tokens whose logits tell whether frequencies have changed."""
NEAR_ROUNDINGS = 64
"""Roundings by which they may differ all the same: an expert's matrix product rounds by the number of its tokens."""
Rows = Literal["measured", "packed", "plain"]
"""How examples are put into rows: several to one where the model allows, one for each, or what is quicker."""
MEASURED_BELOW = 1_000_000
"""Parameters of the models for which that is measured. With more, products rule the cost: the fewest tokens win."""
MEASURED_TOKENS, MEASURED_PASSES = 512, 5
"""Tokens of the sample that is timed, and how often: a tenth to a quarter of a second of such a model's time."""
CLEARLY = 0.9
"""Plain rows are taken where they need at most this share of the time: by less, chance would choose."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


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
    seen: Tried = {}
    frequencies = frequency_limit(model, max(pair.fed for pair in (*pairs, *reference)), seen)
    packed = pack and fits and takes_packed_rows(model, seen)
    kept = packed and takes_kept_prefixes(model, seen)
    shortcuts = takes_shortcuts(model)
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


def check_frequencies(pairs: Sequence[EncodedPair], packing: Packing) -> None:
    """Raise AlignmentError for a donor run whose prompt has other values with one answer than with another."""
    if not packing.patch_answers or packing.frequencies is None:
        return
    for pair in pairs:
        if len(packing.answers_by_kind(donor_pair(pair))) > 1:
            raise AlignmentError(
                f"pair {pair.pair.id}: its answers differ in length about the {packing.frequencies.after} tokens "
                "above which the model's RoPE takes other frequencies, so its donor prompt has two sets of values: "
                "use positions prompt, or shorter prompts"
            )


Tried = dict[int, torch.Tensor | None]
"""Length of a row -> the logits of its first tokens, where they were computed already: each costs a forward pass."""


def frequency_limit(model: LanguageModel, longest: int, seen: Tried | None = None) -> FrequencyLimit | None:
    """Return the length from which a row's frequencies depend on the longest row beside it, for rows up to ``longest``;
    None: nowhere.

    Known of transformers' own rotary modules; of others found by trying: does a token far away change earlier ones?
    """
    if model.most_tokens is not None or longest < FEWEST_NEAR + 1:
        return None
    known = rope_limits(model.module)
    if known:
        after = min(limit for limit, _ in known)
        return FrequencyLimit(after, stepped=known == {(after, True)}) if after < longest else None
    return _tried_limit(model, longest, {} if seen is None else seen)


def _tried_limit(model: LanguageModel, longest: int, seen: Tried) -> FrequencyLimit | None:
    near = _near_logits(model, FEWEST_NEAR + 1, seen)
    if near is None or _same_near(model, near, longest, seen):
        return None
    low, high = FEWEST_NEAR + 1, longest  # the first is like the near one, the second is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _same_near(model, near, middle, seen) else (low, middle)
    first, last = _near_logits(model, high, seen), _near_logits(model, longest, seen)
    if first is not None and last is not None and torch.equal(first, last) and high < longest:
        return FrequencyLimit(low, stepped=True)
    # A change that grows with length is seen late: nothing longer than a limit that is named shares a pass.
    return FrequencyLimit(max((named for named in named_lengths(model) if named <= low), default=0), stepped=False)


def named_lengths(model: LanguageModel) -> set[int]:
    """Lengths that the configuration names as those of training, or the most."""
    config = model.module.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    tables = [config.to_dict(), rope, *(inner for inner in rope.values() if isinstance(inner, dict))]
    names = ("original_max_position_embeddings", "max_position_embeddings")
    return {value for table in tables for name in names if isinstance(value := table.get(name), int)}


def _same_near(model: LanguageModel, near: torch.Tensor, length: int, seen: Tried) -> bool:
    found = _near_logits(model, length, seen)
    closest = NEAR_ROUNDINGS * torch.finfo(near.dtype).eps * near.abs().max().clamp(min=1.0)
    return found is not None and bool((found - near).abs().max() <= closest)


def _near_logits(model: LanguageModel, length: int, seen: Tried) -> torch.Tensor | None:
    if length not in seen:
        seen[length] = _logits_of_first(model, length)
    return seen[length]


@torch.no_grad()
def _logits_of_first(model: LanguageModel, length: int) -> torch.Tensor | None:
    """Logits of a few first tokens where the last token stands at the end of so long a row; None where it refuses."""
    if not model.takes("position_ids"):
        return None
    ids = torch.tensor([[(3 + 7 * i) % _vocabulary(model) for i in range(FEWEST_NEAR + 1)]], device=model.device)
    positions = torch.tensor([[*range(FEWEST_NEAR), length - 1]], device=model.device)
    try:
        with evaluating(model.module), fresh_frequencies(model.module):
            found = model.module(
                input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False
            )
    except REFUSALS:
        return None
    logits: torch.Tensor = found.logits[0, :FEWEST_NEAR].cpu()
    return logits


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


def takes_packed_rows(model: LanguageModel, seen: Tried | None = None) -> bool:
    """Whether a row of two examples with branches gives the logits of plain rows, tried on a few tokens."""
    if any(layer.attention is None for layer in model.layers):
        return False
    if "position_ids" not in inspect.signature(model.module.forward).parameters:
        return False
    pairs = _probe_pairs(model)
    try:
        packed, plain = (_probe_scores(model, pairs, seen, packed=packed) for packed in (True, False))
    except REFUSALS:
        return False
    return _agree(model, packed, plain)


def takes_kept_prefixes(model: LanguageModel, seen: Tried | None = None) -> bool:
    """Whether rows that attend to kept keys and values give the logits of whole rows, tried on a few tokens."""
    pairs = _probe_pairs(model)
    shortened = [replace(pair, prefix=len(pair.prompt) - 1 - i) for i, pair in enumerate(pairs)]
    try:
        return _agree(model, *(_probe_scores(model, some, seen, packed=True) for some in (shortened, pairs)))
    except REFUSALS:
        return False


def takes_shortcuts(model: LanguageModel) -> bool:
    """Whether a run that starts in the last layer gives the logits of a whole run, tried on a few tokens."""
    last = len(model.layers) - 1
    layout = answer_layouts(_probe_pairs(model), [0], Packing(packed=False, batch_tokens=1))[0]
    layer_inputs = LayerInputs([last])
    try:
        with torch.no_grad():
            whole = forward(model, layout, [], layer_inputs=layer_inputs)
            if last == 0 or not layer_inputs.plain or last not in layer_inputs.entries:
                return False
            return _agree(model, forward(model, layout, [], entry=layer_inputs.entries[last]), whole)
    except REFUSALS:
        return False


def _agree(model: LanguageModel, one: torch.Tensor, other: torch.Tensor) -> bool:
    scale = other.abs().max().clamp(min=1.0)
    return bool((one - other).abs().max() <= TOLERANCE.get(model.dtype, 1e-4) * scale)


def _vocabulary(model: LanguageModel) -> int:
    return int(model.module.get_input_embeddings().weight.shape[0])


def _probe_pairs(model: LanguageModel) -> list[EncodedPair]:
    vocabulary = _vocabulary(model)

    def ids(start: int, count: int) -> tuple[int, ...]:
        return tuple((start + 7 * i) % vocabulary for i in range(count))

    pair = PromptPair(id="probe", base="probe", answers=("a", "b"))
    prompts = (ids(3, 5), ids(11, 3))
    return [EncodedPair(pair, prompt, (ids(5, 3), ids(17, 2)), (), tuple(range(len(prompt)))) for prompt in prompts]


@torch.no_grad()
def _probe_scores(
    model: LanguageModel, pairs: Sequence[EncodedPair], seen: Tried | None, *, packed: bool
) -> torch.Tensor:
    """Log-probability of every scored token, by example, answer and place, whatever the rows."""
    total: list[torch.Tensor] = []
    packing = Packing(packed, FEWEST_TOKENS, frequencies=frequency_limit(model, max(pair.fed for pair in pairs), seen))
    kept = keep_prefixes(model, pairs, packing)
    layouts = answer_layouts(pairs, range(len(pairs)), packing)
    for layout in (layout for whole in layouts for layout in whole.passes):
        cache = None if kept is None else kept.for_layout(layout, 1)
        log_p = forward(model, layout, [], cache=cache)[0].double().log_softmax(-1)
        values = log_p[layout.scored_read.to(log_p.device), layout.scored_token.to(log_p.device)].cpu()
        cells = torch.zeros(len(pairs), layout.answers, dtype=torch.float64)
        at = torch.tensor(layout.examples)[layout.scored_cell // layout.answers]
        total.append(cells.index_put((at, layout.scored_cell % layout.answers), values, accumulate=True))
    return torch.stack(total).sum(0)
