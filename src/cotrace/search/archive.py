"""Archive: every set that a search evaluated; and SearchState, from which it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cotrace.problem.protocol import chosen_of
from cotrace.results.effects import EffectTable, Key, bits_of


class Entry(NamedTuple):
    """One evaluated set."""

    key: Key
    size: int
    score: float
    """The problem's value, signed so that larger is better, less the penalty."""
    spent: float
    """Forward-equivalents spent when it was found."""
    penalty: float = 0.0
    """Amount taken off the score for broken constraints; 0 for a feasible set."""
    side: tuple[float, ...] = ()
    """The values that constraints bound."""
    effects: bytes = b""
    """Per-example effects as float32; empty where the metric has none, or there was no room."""

    @property
    def gain(self) -> float:
        """The problem's value, signed so that larger is better, without the penalty."""
        return self.score + self.penalty


class Archive:
    """Append-only: a snapshot shares the entries and copies them only where it is written to itself."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._entries: list[Entry] = []
        self._count = 0
        self._best: dict[int, Entry] = {}
        self._feasible: dict[int, Entry] = {}
        self._scores: dict[Key, float] = {}
        self._shared = False
        self._gradients: dict[Key, Tensor] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries[: self._count])

    @property
    def sizes(self) -> list[int]:
        """The sizes of which a set was evaluated, ascending."""
        return sorted(self._best)

    def best(self, size: int) -> Entry | None:
        """The best set of this size; None where none was evaluated."""
        return self._best.get(size)

    def feasible(self, size: int) -> Entry | None:
        """The best set of this size that keeps every constraint; None where none was evaluated. Results hold these."""
        return self._feasible.get(size)

    def best_set(self, size: int) -> Bool[Tensor, "n"]:
        """The best set of this size, which must have been evaluated."""
        return chosen_of(self._best[size].key, self.n)

    def ranked_set(self, size: int, rank: int) -> Bool[Tensor, "n"]:
        """The set of this rank among those of its size, 0 the best; the last where there are fewer."""
        entries = sorted((entry for entry in self if entry.size == size), key=lambda e: (e.score, e.key), reverse=True)
        return chosen_of(entries[min(rank, len(entries) - 1)].key, self.n)

    def by_cost(self, weights: Float[Tensor, "n"], most: int | None = None) -> list[tuple[float, Entry]]:
        """(weighted cost, feasible set of at most so many) by ascending cost, each better than all cheaper ones."""
        largest = self.n if most is None else most
        entries = [entry for entry in self if entry.penalty == 0 and entry.size <= largest]
        if not entries:
            return []
        costs = (
            torch.from_numpy(np.stack([bits_of(entry.key, self.n) for entry in entries])).double() @ weights.double()
        )
        kept: list[tuple[float, Entry]] = []
        rows = sorted(zip(costs.tolist(), entries, strict=True), key=lambda row: (row[0], -row[1].score))
        for cost, entry in rows:
            if not kept or entry.score > kept[-1][1].score:
                kept.append((cost, entry))
        return kept

    def score(self, key: Key) -> float | None:
        """The score of this set; None where it was not evaluated."""
        if self._shared:
            self._detach()
        return self._scores.get(key)

    def scores(self, size: int) -> list[float]:
        """Scores of all distinct sets of this size, in order of evaluation."""
        return [entry.score for entry in self if entry.size == size]

    def add(self, entry: Entry) -> None:
        """Record a set that is not in the archive yet."""
        if self._shared:
            self._detach()
        self._scores[entry.key] = entry.score
        self._entries.append(entry)
        self._count += 1
        for table in (self._best, self._feasible) if entry.penalty == 0 else (self._best,):
            best = table.get(entry.size)
            if best is None or (entry.score, entry.key) > (best.score, best.key):  # of equal scores the lower indices
                table[entry.size] = entry

    def gradient(self, key: Key) -> Float[Tensor, "n"] | None:
        """The gradient at this set; None where none was taken."""
        return self._gradients.get(key)

    def add_gradient(self, key: Key, gradient: Float[Tensor, "n"]) -> None:
        """Record the gradient at a set."""
        self._gradients[key] = gradient

    def snapshot(self) -> Archive:
        """Return a copy of the archive as it is now."""
        made = copy(self)
        tables = {name: dict(vars(self)[name]) for name in ("_best", "_feasible", "_gradients")}
        vars(made).update(tables, _shared=True)
        return made

    def _detach(self) -> None:
        """Take entries of its own: those that the archive held when this snapshot was made."""
        self._entries, self._shared = self._entries[: self._count], False
        self._scores = {entry.key: entry.score for entry in self._entries}

    def effects(self, *, feasible: bool = False) -> EffectTable | None:
        """Per-example effects of every (feasible) set that has them; None where none has."""
        entries = [entry for entry in self if entry.effects and not (feasible and entry.penalty)]
        if not entries:
            return None
        table = np.frombuffer(b"".join(entry.effects for entry in entries), np.float32).reshape(len(entries), -1)
        return EffectTable(self.n, _bytes([entry.key for entry in entries], self.n).numpy(), table)

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors, for safetensors."""
        tensors = {
            "archive.keys": _bytes([entry.key for entry in self], self.n),
            "archive.scores": torch.tensor([entry.score for entry in self], dtype=torch.float64),
            "archive.spent": torch.tensor([entry.spent for entry in self], dtype=torch.float64),
        }
        if any(entry.side for entry in self):
            tensors["archive.penalties"] = torch.tensor([entry.penalty for entry in self], dtype=torch.float64)
            tensors["archive.sides"] = torch.tensor([entry.side for entry in self], dtype=torch.float64)
        if (stored := self.effects()) is not None:
            tensors["archive.effects"] = torch.from_numpy(stored.effects.copy())
        if self._gradients:
            tensors["gradients.keys"] = _bytes(list(self._gradients), self.n)
            tensors["gradients.values"] = torch.stack(list(self._gradients.values()))
        return tensors

    @classmethod
    def from_tensors(cls, n: int, tensors: Mapping[str, Tensor]) -> Archive:
        """Inverse of ``to_tensors``."""
        archive = cls(n)
        scores, spent = tensors["archive.scores"].tolist(), tensors["archive.spent"].tolist()
        penalties = tensors["archive.penalties"].tolist() if "archive.penalties" in tensors else [0.0] * len(scores)
        sides = tensors["archive.sides"].tolist() if "archive.sides" in tensors else [()] * len(scores)
        # The sets with effects are the first ones: what comes once there is no room has none.
        effects = [row.tobytes() for row in tensors["archive.effects"].numpy()] if "archive.effects" in tensors else []
        effects += [b""] * (len(scores) - len(effects))
        rows = zip(tensors["archive.keys"].numpy(), scores, spent, penalties, sides, effects, strict=True)
        for row, score, cost, penalty, side, own in rows:
            archive.add(Entry(row.tobytes(), int(np.unpackbits(row).sum()), score, cost, penalty, tuple(side), own))
        if "gradients.keys" in tensors:
            for row, gradient in zip(tensors["gradients.keys"].numpy(), tensors["gradients.values"], strict=True):
                archive.add_gradient(row.tobytes(), gradient.clone())
        return archive


def _bytes(keys: list[Key], n: int) -> Tensor:
    flat = np.frombuffer(b"".join(keys), np.uint8).copy()
    return torch.from_numpy(flat.reshape(len(keys), (n + 7) // 8))


PLAIN = ("search", "phase", "step", "total", "spent")
VARIABLE = "variable."


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """State of a search after a step: enough to go on from, nothing that is code."""

    search: str
    """Name of the search."""
    phase: str = "start"
    """Phase of the search, in a word."""
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
        """Inverse of ``to_arrays``.

        Args:
            data: Plain data, as JSON holds it.
            tensors: Name -> tensor.
        """
        own = {name.removeprefix(VARIABLE): tensor for name, tensor in tensors.items() if name.startswith(VARIABLE)}
        archive = Archive.from_tensors(data["n"], tensors)
        return cls(**{name: data[name] for name in PLAIN}, archive=archive, numbers=data["numbers"], tensors=own)
