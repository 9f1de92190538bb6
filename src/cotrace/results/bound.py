"""Bound: what a constraint allows a side value to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cotrace.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A side value must lie in [lower, upper]; while searching, by ``margin`` inside of it."""

    name: str
    """What is bounded, in words."""
    lower: float | None
    """None where the value may fall as it likes."""
    upper: float | None
    margin: float = 0.0
    price: float = 1.0
    """What a search charges for one unit beyond the bound, in units of the effect."""

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
