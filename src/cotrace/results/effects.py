"""Sets as keys; and EffectTable: per-example effects of evaluated sets, kept to be judged again for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

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
