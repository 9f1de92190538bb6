"""Tests by sign flips and against random sets, p = (1 + b) / (1 + m); Holm and max-T adjust for many of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from cotrace.statistics.units import Units, blocks


def above_zero(effects: Float[np.ndarray, "test example"], units: Units) -> Float[np.ndarray, "test"]:
    """One-sided p-values that the means are above 0, adjusted for their number: sign flips, then Holm.

    The more tests, the more flips, so that the adjustment leaves p-values below 0.05 within reach.
    """
    return holm(sign_flip_p(effects, units, flips=max(1_999, 100 * len(effects))))


def sign_flip_p(
    effects: Float[np.ndarray, "*test example"], units: Units, *, flips: int = 1_999, seed: int = 0
) -> Float[np.ndarray, "*test"]:
    """One-sided p-values that the means are above 0: the signs of the units' shares flipped (all ways where few)."""
    shares = units.unit_means(effects)
    observed, slack = shares.sum(-1), 1e-12 * np.abs(shares).sum(-1)
    exact = 2.0**units.count <= flips
    reached, tried = np.zeros(observed.shape, np.int64), 0
    for signs in _signs(units.count, 2**units.count if exact else flips, exact, seed):
        reached += (np.moveaxis(shares @ signs.T, -1, 0) >= observed - slack).sum(0)
        tried += len(signs)
    return np.asarray(reached / tried if exact else (1 + reached) / (1 + tried))


def _signs(count: int, flips: int, exact: bool, seed: int) -> Iterator[Float[np.ndarray, "flip unit"]]:
    draw, start = np.random.default_rng(seed), 0
    for rows in blocks(flips, count):
        codes = np.arange(start, start + rows)[:, None] >> np.arange(count) & 1 if exact else None
        ones = codes if codes is not None else draw.integers(0, 2, (rows, count), np.int8)
        yield 2.0 * ones - 1
        start += rows


def holm(p_values: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's adjusted p-values (1979): the i-th smallest times the number of those not smaller, made monotone."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def p_values(
    observed: Float[np.ndarray, "size"], controls: Float[np.ndarray, "chain size"]
) -> Float[np.ndarray, "size"]:
    """For each size the share of sets, the selection among them, with at least its effect. Larger is better."""
    return np.asarray((1 + (controls >= observed).sum(0)) / (1 + len(controls)))


def max_t(observed: Float[np.ndarray, "size"], controls: Float[np.ndarray, "chain size"]) -> Float[np.ndarray, "size"]:
    """p-values adjusted for looking at all sizes, by the largest standardised effect of each chain.

    The single-step max-T of Westfall and Young (1993). Means and deviations are taken over controls and selection
    together, so that under the null hypothesis all of them may change places.
    """
    together = np.concatenate([observed[None], controls])
    scale = together.std(0)
    steps = np.where(scale > 0, (together - together.mean(0)) / np.where(scale > 0, scale, 1.0), 0.0)
    largest = steps[1:].max(1)
    return np.asarray((1 + (largest[:, None] >= steps[0][None] - 1e-12).sum(0)) / (1 + len(controls)))


def smallest_p(count: int) -> float:
    """The smallest p-value that so many controls can give."""
    return 1 / (1 + count)


def controls_needed(p: float) -> int:
    """How many controls can give a p-value as small as this."""
    return int(np.ceil(1 / p - 1e-9)) - 1
