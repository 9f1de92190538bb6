"""Effects of sets that were evaluated, as people read them too, and the bounds on side values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from cotrace.errors import InputError

Key = bytes
"""A set as packed bits, first component first. Of two sets of one size the greater key has the lower indices."""


def bits_of(key: Key, n: int) -> UInt8[np.ndarray, "n"]:
    """The packed bits as 0 and 1."""
    return np.unpackbits(np.frombuffer(key, np.uint8), count=n)


@dataclass(frozen=True, eq=False)
class EffectTable:
    """One row for each set: which components are chosen, and the effect on every example."""

    n: int
    """Number of components in the space."""
    keys: UInt8[np.ndarray, "set byte"]
    """Chosen indicators as packed bits, first component first."""
    effects: Float[np.ndarray, "set example"]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, chosen: Bool[np.ndarray, "set n"], effects: Float[np.ndarray, "set example"]) -> EffectTable:
        """The table of these sets."""
        return cls(chosen.shape[1], np.packbits(chosen, axis=1), np.asarray(effects, np.float32))

    @cached_property
    def _rows(self) -> dict[bytes, int]:
        return {key.tobytes(): row for row, key in enumerate(self.keys)}

    @cached_property
    def sizes(self) -> Int[np.ndarray, "set"]:
        """How many components each set has."""
        return np.array([int.from_bytes(key.tobytes(), "big").bit_count() for key in self.keys], np.int64)

    def sets(self, rows: Sequence[int] | Int[np.ndarray, "row"]) -> Bool[np.ndarray, "row n"]:
        """Chosen indicators of some of the sets: those of all may have no room."""
        return np.unpackbits(self.keys[rows], axis=1, count=self.n).astype(bool)

    @property
    def chosen(self) -> Bool[np.ndarray, "set n"]:
        """Chosen indicators, one row for each set."""
        return np.unpackbits(self.keys, axis=1, count=self.n).astype(bool)

    def find(self, key: bytes) -> Float[np.ndarray, "example"] | None:
        """Effects of the set with these packed bits; None where it is not here."""
        row = self._rows.get(key)
        return None if row is None else self.effects[row]

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Plain arrays, for safetensors."""
        return {f"{prefix}.keys": self.keys, f"{prefix}.effects": self.effects}

    @classmethod
    def from_arrays(cls, n: int, prefix: str, arrays: Mapping[str, np.ndarray]) -> EffectTable | None:
        """Inverse of ``to_arrays``; None where there are none of that name. Raises ValueError for what it cannot be."""
        names = f"{prefix}.keys", f"{prefix}.effects"
        keys, effects = (arrays.get(name) for name in names)
        if keys is None and effects is None:
            return None
        if keys is None or effects is None:
            raise ValueError(f"it holds only one of {' and '.join(names)}")
        if keys.dtype != np.uint8 or keys.shape[1:] != (-(-n // 8),):
            raise ValueError(f"{names[0]} is no list of sets of {n} components")
        if effects.dtype != np.float32 or effects.ndim != 2 or len(effects) != len(keys):
            raise ValueError(f"{names[1]} does not hold a row of effects for each set")
        if not np.isfinite(effects).all():
            raise ValueError(f"{names[1]} holds effects that are not finite")
        return cls(n, keys, effects)


@dataclass(frozen=True)
class HardFigure:
    """The level that people read in the base run and under a set, and the soft effect that stands beside it."""

    before: float
    after: float
    soft: float | None = None
    """Effect in the form that searches follow; None where it is no change (faithfulness)."""
    target: float | None = None
    """The level that is aimed at: effects then say how much nearer it came."""

    @property
    def change(self) -> float:
        """After less before; with a target, how much nearer the level came to it."""
        if self.target is None:
            return self.after - self.before
        return abs(self.before - self.target) - abs(self.after - self.target)

    @property
    def disagrees(self) -> bool:
        """Whether the soft form moves one way and the level that people read the other."""
        return self.soft is not None and self.soft * self.change < 0

    @property
    def words(self) -> str:
        """Return words such as ``0.1667 -> 0.3333``."""
        return f"{self.before:.4g} -> {self.after:.4g}"

    @property
    def caveat(self) -> str:
        """The sentence that is due where the two disagree; empty where they do not."""
        if not self.disagrees:
            return ""
        kind = "" if self.target is None else f", that is {self.change:+.3g} nearer to {self.target:g}"
        return (
            f"The soft form moves by {self.soft:+.3g}, but the level that people read goes the other way, from "
            f"{self.before:.4g} to {self.after:.4g}{kind}: what was searched for is not what is reported"
        )


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A side value must lie in [lower, upper]; while searching, by ``margin`` inside of it."""

    name: str
    """The bounded quantity, in words."""
    lower: float | None
    """None where the value may fall as it likes."""
    upper: float | None
    margin: float = 0.0
    price: float = 1.0
    """Price of one unit beyond the bound, in units of the effect."""

    def __post_init__(self) -> None:
        if self.price <= 0 or self.margin < 0:
            raise InputError(f"bound on {self.name}: price must be above 0 and margin at least 0")

    def violation(self, value: float, margin: float = 0.0) -> float:
        """How far a value lies outside of the bound drawn in by ``margin``; 0 inside."""
        above = 0.0 if self.upper is None else value - (self.upper - margin)
        below = 0.0 if self.lower is None else (self.lower + margin) - value
        return max(above, below, 0.0)

    @property
    def words(self) -> str:
        """The bound in words."""
        low = "" if self.lower is None else f"{self.lower:+.3g} <= "
        high = "" if self.upper is None else f" <= {self.upper:+.3g}"
        return f"{low}{self.name}{high} (margin {self.margin:.2g} while searching)"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
