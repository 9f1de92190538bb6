"""Batching: how many tokens a forward pass holds. Halved when memory runs out, and each halving noted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from cotrace.errors import InputError, is_out_of_memory

Checkpointing = Literal["auto", "on", "off"]


class Replan(Exception):
    """The batch in hand does not fit any more: lay its examples out anew and go on."""


@dataclass(frozen=True)
class Event:
    """A change of the batching, because memory ran out."""

    batch_tokens: int
    checkpointing: bool


class Batching:
    """What all parts of a problem share: the tokens of a forward pass now, and the changes so far."""

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
