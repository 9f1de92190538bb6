"""RunState: where a run stands, as plain numbers and tensors: finished searches, history, and the search under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cotrace.results import Frontier
from cotrace.results.effects import EffectTable
from cotrace.runs.results import Step
from cotrace.search import SearchState

TABLES = ("effects", "effects_heldout")


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Enough to go on from as if the run had never stopped, and nothing that is code."""

    frontiers: tuple[Frontier, ...] = ()
    """Of the searches that are done, in order."""
    steps: tuple[Step, ...] = ()
    """The rows of history.csv so far."""
    search: SearchState | None = None
    """Where the search under way stands; None before its first step, and where all are done."""
    elapsed_s: float = 0.0
    """Seconds that the search under way has taken."""
    batch_plan: Mapping[str, Any] | None = None
    """How the passes are cut, and what changed when memory ran out."""

    @property
    def is_new(self) -> bool:
        """Whether nothing was done yet."""
        return not self.steps

    def to_data(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "frontiers": [frontier.to_dict() for frontier in self.frontiers],
            "steps": [list(asdict(step).values()) for step in self.steps],
            "search": None if self.search is None else self.search.to_arrays()[0],
            "elapsed_s": self.elapsed_s,
            "batch_plan": self.batch_plan,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the search under way."""
        return {} if self.search is None else self.search.to_arrays()[1]

    @classmethod
    def from_data(cls, data: Mapping[str, Any], done: list[dict[str, Tensor]], tensors: dict[str, Tensor]) -> RunState:
        """Inverse of ``to_data``, ``frontier_tensors`` of each frontier, and ``tensors``."""
        frontiers = [Frontier.from_dict(own) for own in data["frontiers"]]
        return cls(
            frontiers=tuple(with_tensors(*pair) for pair in zip(frontiers, done, strict=True)),
            steps=tuple(Step(*row) for row in data["steps"]),
            search=None if data["search"] is None else SearchState.from_arrays(data["search"], tensors),
            elapsed_s=float(data["elapsed_s"]),
            batch_plan=_checked(data["batch_plan"]),
        )


def _checked(plan: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A plan that can be gone on with. Raises KeyError, TypeError, ValueError."""
    if plan is None:
        return None
    events = [
        {"batch_tokens": int(event["batch_tokens"]), "checkpointing": bool(event["checkpointing"])}
        for event in plan["events"]
    ]
    return {
        "batch_tokens": int(plan["batch_tokens"]),
        "checkpointing": str(plan["checkpointing"]),
        "events": events,
    }


def frontier_tensors(frontier: Frontier) -> dict[str, Tensor]:
    """The effects that a frontier keeps, which its JSON leaves out."""
    return {name: torch.from_numpy(array.copy()) for part in TABLES for name, array in _arrays(frontier, part)}


def _arrays(frontier: Frontier, part: str) -> Iterator[tuple[str, Any]]:
    table: EffectTable | None = getattr(frontier, part)
    yield from ({} if table is None else table.to_arrays(part)).items()


def with_tensors(frontier: Frontier, tensors: Mapping[str, Tensor]) -> Frontier:
    """The frontier with the effects that it had."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    tables = {part: EffectTable.from_arrays(len(frontier.space), part, arrays) for part in TABLES}
    return replace(frontier, effects=tables["effects"], effects_heldout=tables["effects_heldout"])
