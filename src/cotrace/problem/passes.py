"""Forward passes: how many tokens each holds, what may share a row, and what is done when memory runs out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from cotrace.batches import EncodedPair, Packing
from cotrace.batches.packing import longest_span
from cotrace.batches.segments import donor_pair
from cotrace.errors import AlignmentError, InputError, is_out_of_memory
from cotrace.models import LanguageModel
from cotrace.problem.trials import Trials

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
    shortcuts = pack and trials.shortcuts
    packing = Packing(packed, tokens, row_limit=limit, keep_prefix=kept, shortcuts=shortcuts, frequencies=frequencies)
    return packing.holding(tokens)


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
