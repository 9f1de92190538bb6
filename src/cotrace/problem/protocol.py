"""Problem: all that a search may see. Nothing here knows of language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from cotrace.components import ComponentSpace
from cotrace.components import Direction as Direction
from cotrace.components import Mode as Mode

JudgePairs = int | str | None
"""How many held-out pairs judge: at most so many, or ``"all"``; None for 1,000 at most."""
Loss = Callable[[Tensor], Tensor]
"""Effects [item] -> loss of each item: of each example, or of the one aggregate where a metric has no others."""
Examples = Sequence[int] | Int[Tensor, "example"] | None
"""Indices of training pairs in file order; None for all."""


@dataclass
class Cost:
    """Count of forward-equivalents: one mask on all training pairs is 1, a gradient is 2, subsets pro rata."""

    forward_equivalents: float = 0.0

    def charge(self, amount: float) -> None:
        """Add to the count."""
        self.forward_equivalents += amount


@runtime_checkable
class Problem(Protocol):
    """A component space, and the effect of every mask on it. Mask 1 means the donor's value, in both modes.

    A problem may also have ``bounds`` (one ``results.Bound`` for each column of ``side_values``, which every search
    keeps), ``surrogate`` with ``reported(masks)`` and ``reported_base``: the metric as people read it, where ``value``
    is soft; ``target``: the level of it that is aimed at; ``full_is_clear``: whether the pairs show that swapping
    everything moves the metric, without which no share of that is told; and ``question``: what a ``Frontier`` says of
    where it comes from (model, donors, align, positions, split).
    """

    @property
    def space(self) -> ComponentSpace:
        """The N components, in mask order."""

    @property
    def mode(self) -> Mode:
        """``swap``: the chosen components have mask 1, the others 0. ``keep``: the chosen have 0, the others 1."""

    @property
    def direction(self) -> Direction:
        """Whether larger or smaller values are preferred. May raise an InputError where that is not known."""

    @property
    def metric(self) -> str:
        """Name of the metric."""

    @property
    def task(self) -> str:
        """Name of the data."""

    @property
    def summary(self) -> str:
        """The question in words, with the direction and the full swap."""

    @property
    def size(self) -> int:
        """Number of training pairs."""

    @property
    def cost(self) -> Cost:
        """What has been spent on training pairs so far."""

    @property
    def heldout(self) -> Problem | None:
        """The same problem on unseen pairs; None where nothing is held out."""

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one mask [n] or several [mask, n], in file order."""

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The reported aggregate on all training pairs, for one mask or several."""

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Gradient of the mean of ``objective(effects)``, or of the reported aggregate; exact over ``examples``."""

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """Values that constraints bound, one column each; no columns where there are none."""
