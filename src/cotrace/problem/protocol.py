"""Problem: all that a search may see; and masks, as people give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cotrace.components import Component, ComponentSpace
from cotrace.components import Direction as Direction
from cotrace.components import Mode as Mode
from cotrace.errors import InputError
from cotrace.results import is_named, members_of
from cotrace.results.effects import Key, bits_of
from cotrace.validation import LISTS

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
        """Cost on training pairs so far, in forward-equivalents."""

    @property
    def heldout(self) -> Problem | None:
        """The same problem on unseen pairs; None where nothing is held out."""

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one mask [n] or several [mask, n], in file order.

        Args:
            masks: One mask [n] or several [mask, n], from 0 to 1.
            examples: Indices of training pairs; None for all.
        """

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The reported aggregate on all training pairs, for one mask or several.

        Args:
            masks: One mask [n] or several [mask, n].
        """

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Gradient of the mean of ``objective(effects)``, or of the reported aggregate; exact over ``examples``.

        Args:
            z: Soft mask [n].
        """

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """Values that constraints bound, one column each; no columns where there are none.

        Args:
            masks: One mask [n] or several [mask, n].
        """


MASK_ELEMENTS = 1 << 22
"""Most numbers in one batch of masks: 16 MiB, and 113 masks at N = 36,864."""


def as_masks(masks: Any, space: ComponentSpace, mode: Mode, dtype: torch.dtype) -> Float[Tensor, "*mask n"]:
    """A mask tensor [n] or [mask, n]; a Selection or component names become a binary mask by the mode.

    Lists of such are several. Raises InputError where the shape is not the space's, or a number is
    outside [0, 1].
    """
    if is_named(masks):
        return chosen_mask(space, members_of("effects", "masks", masks), mode, dtype)
    if isinstance(masks, (*LISTS, Sequence)):
        if not masks or any(isinstance(one, LISTS) and not one for one in masks):
            raise InputError(
                "an empty list is no mask: name the components that are chosen; for none, give ct.Selection(members=())"
            )
        if any(map(is_named, masks)):
            return torch.stack([chosen_mask(space, members_of("effects", "masks", one), mode, dtype) for one in masks])
    z = _tensor(masks)
    if z.is_complex():
        raise InputError("a mask holds complex numbers: give real ones from 0 to 1")
    z = z.detach().to("cpu", dtype)
    if z.ndim not in (1, 2) or z.shape[-1] != len(space) or not len(z):
        raise InputError(f"a mask has shape {list(z.shape)}: give [n] or [mask, n] with n = {len(space)} components")
    if not bool(((z >= 0) & (z <= 1)).all()):
        raise InputError("a mask holds numbers outside [0, 1]: 0 keeps the own value, 1 takes the donor's")
    return z


def _tensor(masks: Any) -> Tensor:
    try:
        return torch.as_tensor(masks)
    except (RuntimeError, TypeError, ValueError):
        kind = type(masks).__name__
        raise InputError(
            f"a mask of type {kind}: give a tensor [n] or [mask, n], a Selection or component names"
        ) from None


def chosen_mask(
    space: ComponentSpace, members: Iterable[Component], mode: Mode, dtype: torch.dtype
) -> Float[Tensor, "n"]:
    """The mask of a chosen set: 1 on the chosen in ``swap`` mode, 0 on the chosen and 1 elsewhere in ``keep`` mode."""
    chosen = torch.from_numpy(space.indicator(members)).to(dtype)
    return chosen if mode == "swap" else 1 - chosen


def mask_of(problem: Problem, chosen: Float[Tensor, "*set n"]) -> Float[Tensor, "*set n"]:
    """The mask of chosen indicators, hard or soft, in the problem's mode."""
    return chosen if problem.mode == "swap" else 1 - chosen


def keys_of(chosen: Bool[Tensor, "set n"]) -> list[Key]:
    """The key of each row."""
    return [row.tobytes() for row in np.packbits(chosen.numpy(), axis=1)]


def key_of(chosen: Bool[Tensor, "n"]) -> Key:
    """The key of one set."""
    return np.packbits(chosen.numpy()).tobytes()


def chosen_of(key: Key, n: int) -> Bool[Tensor, "n"]:
    """Inverse of ``key_of``."""
    return torch.from_numpy(bits_of(key, n).astype(bool))


def check_same(first: Problem, other: Problem, *, mode: bool) -> None:
    """Raises InputError unless both problems are over the same components (and in the same mode)."""
    if first.space.components != other.space.components:
        raise InputError(
            f"{first.task} is over {first.space.outline} and {other.task} over {other.space.outline}: give both "
            "problems the same sites, or sites=problem.space"
        )
    if mode and first.mode != other.mode:
        raise InputError(f"{first.task} is in mode {first.mode} and {other.task} in {other.mode}: use one mode")
