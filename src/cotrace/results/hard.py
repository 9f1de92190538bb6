"""HardFigure: the metric as people read it, beside the soft form that searches follow."""

from __future__ import annotations

from dataclasses import dataclass


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
        """Such as ``0.1667 -> 0.3333``."""
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
