"""Problem: all that a search may see; and masks, as people give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cotrace.components import Component, ComponentSpace
from cotrace.components import Direction as Direction
from cotrace.components import Mode as Mode
from cotrace.errors import InputError
from cotrace.results import Bound, is_named, members_of
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


if TYPE_CHECKING:
    attribute = property
else:

    class attribute:  # noqa: N801
        """A property in whose place a class or an instance may have a plain attribute."""

        def __init__(self, read: Callable[[Any], Any]) -> None:
            self.read, self.__doc__ = read, read.__doc__

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            return self if instance is None else self.read(instance)


def inner(*names: str) -> Iterator[Any]:
    """Attributes, and methods, that are those of the problem that a problem is made of (its ``problem``)."""
    return (attribute(attrgetter(f"problem.{name}")) for name in names)


class Problem:
    """A component space, and the effect of every mask on it. Mask 1 means the donor's value, in both modes.

    A problem of your own inherits from it, and has ``space``, ``mode``, ``direction``, ``metric``, ``task``,
    ``summary``, ``size`` and ``cost``, as attributes or properties, and the methods ``effects``, ``value`` and
    ``gradient``. All else has a default.
    """

    @attribute
    def space(self) -> ComponentSpace:
        """The N components, in mask order."""
        raise NotImplementedError

    @attribute
    def mode(self) -> Mode:
        """``swap``: the chosen components have mask 1, the others 0. ``keep``: the chosen have 0, the others 1."""
        raise NotImplementedError

    @attribute
    def direction(self) -> Direction:
        """Whether larger or smaller values are preferred. May raise an InputError where that is not known."""
        raise NotImplementedError

    @attribute
    def metric(self) -> str:
        """Name of the metric."""
        raise NotImplementedError

    @attribute
    def task(self) -> str:
        """Name of the data."""
        raise NotImplementedError

    @attribute
    def summary(self) -> str:
        """The question in words, with the direction and the full swap."""
        raise NotImplementedError

    @attribute
    def size(self) -> int:
        """Number of training pairs."""
        raise NotImplementedError

    @attribute
    def cost(self) -> Cost:
        """Cost on training pairs so far, in forward-equivalents."""
        raise NotImplementedError

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one mask or several, in file order. InputError where there is none.

        Args:
            masks: One mask [n] or several [mask, n], from 0 (own value) to 1 (donor's value).
            examples: Indices of training pairs; None for all.
        """
        raise NotImplementedError

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The reported aggregate on all training pairs, for one mask or several.

        Args:
            masks: One mask [n] or several [mask, n], from 0 (own value) to 1 (donor's value).
        """
        raise NotImplementedError

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Gradient of the mean of ``objective(effects)``, or of the reported aggregate; exact over ``examples``.

        Args:
            z: Soft mask [n], from 0 to 1.
            objective: Differentiable function of the effects; None for the reported aggregate.
            examples: Indices of training pairs; None for all.
        """
        raise NotImplementedError

    @attribute
    def heldout(self) -> Problem | None:
        """The same problem on unseen pairs; None where nothing is held out."""
        return None

    @attribute
    def audit(self) -> Problem | None:
        """The same problem on pairs that nothing touches until the end; None where there are none."""
        return None

    @attribute
    def searched(self) -> Problem:
        """The same problem on the pairs that searches see: itself, where they see all."""
        return self

    def heldout_of(self, judge_pairs: int | str) -> Problem | None:
        """The same problem on other held-out pairs. Raises InputError where these are settled.

        Args:
            judge_pairs: At most so many pairs, or ``"all"``.
        """
        raise InputError(
            f"judge_pairs={judge_pairs}: the pairs that judge {self.task} are settled where it is made; give "
            "judge_pairs to each LanguageProblem that it is made of"
        )

    @attribute
    def drawn(self) -> str:
        """Which of the held-out pairs these are, in words; empty where they are all."""
        return ""

    @attribute
    def made_of(self) -> Sequence[Problem]:
        """The problems that a sum or a constraint puts together."""
        return ()

    @attribute
    def ids(self) -> Sequence[str]:
        """A name of each pair."""
        return list(map(str, range(self.size)))

    @attribute
    def weights(self) -> Float[Tensor, "example"]:
        """How much each pair counts in the aggregate."""
        return torch.ones(self.size)

    @attribute
    def clusters(self) -> Sequence[str] | None:
        """The group of each pair, which resampling keeps together; None where each stands for itself."""
        return None

    @attribute
    def strata(self) -> Sequence[int] | None:
        """The kind of each pair, where every resample must hold as many of each (groups that a gap compares)."""
        return None

    @attribute
    def parts(self) -> Sequence[int] | None:
        """Number of each pair's problem in a sum: its mean is the sum of their means."""
        return None

    @attribute
    def bounds(self) -> tuple[Bound, ...]:
        """The bound of each column of ``side_values``: constraints, which every search keeps."""
        return ()

    def side_values(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask side"]:
        """Values that constraints bound, one column each; no columns where there are none.

        Args:
            masks: One mask [n] or several [mask, n], from 0 (own value) to 1 (donor's value).
        """
        return torch.zeros(*torch.as_tensor(masks).shape[:-1], 0)

    def value_and_effects(
        self, masks: Float[Tensor, "*mask n"]
    ) -> tuple[Float[Tensor, "*mask"], Float[Tensor, "*mask example"] | None]:
        """Both from one evaluation; no effects where one evaluation does not give both.

        Args:
            masks: One mask [n] or several [mask, n], from 0 (own value) to 1 (donor's value).
        """
        return self.value(masks), None

    def input_gradient(self, share: float, examples: Examples = None) -> Float[Tensor, "n"]:
        """Gradient along donor minus base activations, with token embeddings so much the donor's: EAP-IG on nodes.

        Raises InputError where there are no such inputs.

        Args:
            share: 0 for the base prompt, 1 for the counterfactual.
            examples: Indices of training pairs; None for all.
        """
        raise InputError(f"{self.task} has no inputs to interpolate; use at='integrated'")

    @attribute
    def redraws(self) -> bool:
        """Whether ``redrawn`` gives values: those of a metric of the whole set, on resampled pairs."""
        return False

    def redrawn(self, masks: Float[Tensor, "mask n"], counts: Iterable[Any]) -> Float[Tensor, "mask draw"]:
        """The value on resampled pairs. Raises InputError where the metric has an effect of each pair.

        Args:
            masks: Masks [mask, n], from 0 to 1.
            counts: Blocks of rows [draw, example] that say how often each pair counts.
        """
        raise InputError(f"{self.metric} has an effect of each pair: resample effects")

    @attribute
    def surrogate(self) -> bool:
        """Whether searches see another quantity, a soft one, than ``reported``."""
        return False

    def reported(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The metric as people read it, under one mask or several: hard where ``value`` is soft.

        Args:
            masks: One mask [n] or several [mask, n], from 0 (own value) to 1 (donor's value).
        """
        return self.value(masks)

    @attribute
    def reported_base(self) -> float | None:
        """The same in the base run; None where it is not known."""
        return None

    @attribute
    def target(self) -> float | None:
        """The level of it that is aimed at; None where the direction is up or down."""
        return None

    @attribute
    def full_is_clear(self) -> bool:
        """Whether the pairs show that swapping everything moves the metric; else no share of that is told."""
        return True

    @attribute
    def question(self) -> Mapping[str, Any]:
        """Provenance that a ``Frontier`` carries: model, donors, align, positions, split."""
        return {}


MASK_ELEMENTS = 1 << 22
"""Most numbers in one batch of masks: 16 MiB, and 113 masks at N = 36,864."""


def as_masks(masks: Any, space: ComponentSpace, mode: Mode, dtype: torch.dtype) -> Float[Tensor, "*mask n"]:
    """A mask tensor [n] or [mask, n]; a Selection or component names become a binary mask by the mode.

    Lists of such are several. Raises InputError where the shape is not the space's, or a number is
    outside [0, 1].
    """
    z = masks if isinstance(masks, Tensor) else _tensor(masks, space, mode, dtype)
    if z.is_complex():
        raise InputError("a mask holds complex numbers: give real ones from 0 to 1")
    z = z.detach().to("cpu", dtype)
    if z.ndim not in (1, 2) or z.shape[-1] != len(space.components) or not len(z):
        raise InputError(f"a mask has shape {list(z.shape)}: give [n] or [mask, n] with n = {len(space)} components")
    if not bool(((z >= 0) & (z <= 1)).all()):
        raise InputError("a mask holds numbers outside [0, 1]: 0 keeps the own value, 1 takes the donor's")
    return z


def _tensor(masks: Any, space: ComponentSpace, mode: Mode, dtype: torch.dtype) -> Tensor:
    """A Selection, names, an array or lists of them as a tensor."""
    if is_named(masks):
        return chosen_mask(space, members_of("effects", "masks", masks), mode, dtype)
    if isinstance(masks, (*LISTS, Sequence)):
        if not masks or any(isinstance(one, LISTS) and not one for one in masks):
            raise InputError(
                "an empty list is no mask: name the components that are chosen; for none, give ct.Selection(members=())"
            )
        if any(map(is_named, masks)):
            return torch.stack([chosen_mask(space, members_of("effects", "masks", one), mode, dtype) for one in masks])
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
