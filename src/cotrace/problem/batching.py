"""Batching: how many tokens a forward pass holds. Halved when memory runs out, and each halving noted for replays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from cotrace.errors import InputError, is_out_of_memory
from cotrace.problem.protocol import Cost

Checkpointing = Literal["auto", "on", "off"]
CLOSE = 1e-6
"""Costs are sums of fractions; a resumed run counts from a rounded one."""


class Replan(Exception):
    """The batch in hand does not fit any more: lay its examples out anew and go on."""


@dataclass(frozen=True)
class Event:
    """A change of the batching, and when it came: before this pass since that cost was charged."""

    part: str
    forward_equivalents: float
    passes: int
    batch_tokens: int
    checkpointing: bool

    def due(self, part: str, cost: Cost) -> bool:
        """Whether a replay that stands there has come to it."""
        ahead = cost.forward_equivalents - self.forward_equivalents
        return part == self.part and (ahead > CLOSE or (ahead > -CLOSE and cost.passes >= self.passes))


class Batching:
    """What all parts of a problem share: the tokens of a forward pass now, and the changes so far and to come."""

    def __init__(self, tokens: int, checkpointing: Checkpointing = "auto", events: Sequence[Event] = ()) -> None:
        self.first_tokens = self.tokens = tokens
        self.option = checkpointing
        self.checkpointing = checkpointing == "on"
        self.events: list[Event] = []
        self._to_come = list(events)

    @contextmanager
    def passing(self, part: str, cost: Cost, tokens: int, *, divisible: bool, gradient: bool) -> Iterator[None]:
        """Around one forward pass of so many tokens. Raises Replan once it is known that it will not fit.

        Raises InputError where nothing smaller is left to try.
        """
        if self._repeat(part, cost):
            raise Replan
        try:
            yield
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._shrink(part, cost, tokens, divisible=divisible, gradient=gradient)
            raise Replan from None
        cost.passes += 1

    @property
    def state(self) -> tuple[int, bool, tuple[Event, ...], tuple[Event, ...]]:
        """Where it stands: tokens, checkpointing, changes so far and to come."""
        return self.tokens, self.checkpointing, tuple(self.events), tuple(self._to_come)

    @state.setter
    def state(self, state: tuple[int, bool, tuple[Event, ...], tuple[Event, ...]]) -> None:
        self.tokens, self.checkpointing = state[:2]
        self.events, self._to_come = list(state[2]), list(state[3])

    def catch_up(self, passed: int) -> None:
        """Stand behind so many changes: an interrupted run's own, or those of another that it had repeated so far."""
        while self._to_come and len(self.events) < passed:
            self._apply(self._to_come.pop(0))

    def _repeat(self, part: str, cost: Cost) -> bool:
        if not self._to_come or not self._to_come[0].due(part, cost):
            return False
        self._apply(self._to_come.pop(0))
        return True

    def _apply(self, event: Event) -> None:
        self.tokens, self.checkpointing = event.batch_tokens, event.checkpointing
        self.events.append(event)

    def _shrink(self, part: str, cost: Cost, tokens: int, *, divisible: bool, gradient: bool) -> None:
        """Half the tokens; a single example recomputes its layers' activations where that may help."""
        where = (part, cost.forward_equivalents, cost.passes)
        if divisible and self.tokens > 1:
            self._apply(Event(*where, max(1, min(self.tokens, tokens) // 2), self.checkpointing))
        elif gradient and self.option == "auto" and not self.checkpointing:
            self._apply(Event(*where, self.tokens, True))
        else:
            raise InputError(
                f"out of memory in a forward pass of one pair alone ({tokens} tokens): use shorter prompts or answers, "
                "a smaller dtype such as bfloat16, checkpointing=on, or a device with more memory"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        events = [asdict(event) for event in (*self.events, *self._to_come)]
        plan = {"batch_tokens": self.first_tokens, "checkpointing": self.option, "events": events}
        return plan | {"passed": len(self.events)}

    @classmethod
    def planned(cls, tokens: int, checkpointing: Checkpointing, plan: Mapping[str, Any] | None) -> Batching:
        """As a plan says, where there is one. Raises InputError."""
        return cls(tokens, checkpointing) if plan is None else cls.from_dict(plan)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Batching:
        """Inverse of ``to_dict``: changes come again where they came. Raises InputError."""
        try:
            events = [Event(**event) for event in data["events"]]
            whole = all(int(event.batch_tokens) > 0 for event in events)
            tokens = int(data["batch_tokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the batch plan cannot be read ({error!r}): leave it out to have one made") from None
        if not whole or tokens < 1 or data.get("checkpointing") not in ("auto", "on", "off"):
            raise InputError("the batch plan holds numbers that no plan has: leave it out to have one made")
        return cls(tokens, data["checkpointing"], events)


def release(device: torch.device) -> None:
    """Give cached blocks back after a pass that did not fit."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
