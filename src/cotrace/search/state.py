"""SearchState: where a search stands, as plain numbers and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cotrace.search.archive import Archive

PLAIN = ("search", "phase", "step", "total", "spent")
VARIABLE = "variable."


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """Where a search stands after a step: enough to go on from, nothing that is code."""

    search: str
    """Name of the search."""
    phase: str = "start"
    """What the search does, in a word."""
    step: int = 0
    """Steps done."""
    total: int = 0
    """Estimate of all steps, for progress."""
    spent: float = 0.0
    """Forward-equivalents spent."""
    archive: Archive = field(repr=False)
    """Every set evaluated so far."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """The search's own variables that JSON can hold."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """The search's own variables that are tensors."""

    @property
    def z(self) -> Tensor:
        """The soft mask of a search that has one."""
        return self.tensors["z"]

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain data for JSON, and tensors for safetensors."""
        data = {name: getattr(self, name) for name in PLAIN} | {"n": self.archive.n, "numbers": dict(self.numbers)}
        own = {VARIABLE + name: tensor.contiguous() for name, tensor in self.tensors.items()}
        return data, self.archive.to_tensors() | own

    @classmethod
    def from_arrays(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SearchState:
        """Inverse of ``to_arrays``."""
        own = {name.removeprefix(VARIABLE): tensor for name, tensor in tensors.items() if name.startswith(VARIABLE)}
        archive = Archive.from_tensors(data["n"], tensors)
        return cls(**{name: data[name] for name in PLAIN}, archive=archive, numbers=data["numbers"], tensors=own)
