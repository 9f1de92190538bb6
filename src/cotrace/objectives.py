"""Objectives of the soft problem: metric transformations g(m), penalties on the mask, and the penalty schedule.

Source: Yan, Wei, Katz, Sattigeri, Tajer, Multi-component Causal Tracing in Large Language Models, ACL 2026
(arXiv 2606.03085): the transformation 1 / (1 + m), the sparsity and binary penalties, the linear schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.errors import unknown

Loss = Callable[[Tensor], Tensor]


def reciprocal(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = 1 / (1 + m): to maximise a relative change m >= -1; in (0, 1] where m >= 0, unbounded near -1."""
    return 1 / (1 + m)


def bounded_reciprocal(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = 1 / (2 + m): to maximise a relative change m >= -1; in (0, 1]."""
    return 1 / (2 + m)


def shifted(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = 1 + m: to minimise a relative change m >= -1; at least 0."""
    return 1 + m


def logistic(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = 1 / (1 + exp(m)): to maximise any real change; in (0, 1). On log-odds it is 1 / (2 + relative odds)."""
    return torch.sigmoid(-m)


def logistic_down(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = 1 / (1 + exp(-m)): to minimise any real change; in (0, 1)."""
    return torch.sigmoid(m)


def linear(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = (1 - m) / 2: to maximise a change m in [-1, 1]; in [0, 1]."""
    return (1 - m) / 2


def linear_down(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = (1 + m) / 2: to minimise a change m in [-1, 1]; in [0, 1]."""
    return (1 + m) / 2


def saturating(m: Float[Tensor, "*item"]) -> Float[Tensor, "*item"]:
    """g(m) = m / (1 + m): to minimise a change m >= 0; in [0, 1)."""
    return m / (1 + m)


TRANSFORMS: Mapping[str, tuple[Loss, Loss]] = {
    "reciprocal": (reciprocal, shifted),
    "bounded_reciprocal": (bounded_reciprocal, shifted),
    "logistic": (logistic, logistic_down),
    "linear": (linear, linear_down),
    "nonnegative": (reciprocal, saturating),
}
"""Name -> (loss to maximise the effect, loss to minimise it)."""

TRANSFORM_OF_METRIC: Mapping[str, str] = {
    "odds_ratio": "reciprocal",
    "log_odds": "logistic",
    "logit_diff": "logistic",
    "probability": "linear",
    "accuracy": "linear",
    "nll": "logistic",
    "kl": "nonnegative",
    "demographic_parity_gap": "linear",
    "equal_opportunity_gap": "linear",
    "equalized_odds_gap": "linear",
    "stereotype_gap": "logistic",
}
"""Metric -> its transformation, by the range of its effect; any other metric, a sum or a target takes ``logistic``."""


def transformation(metric: str, mode: str, direction: str, name: str | None = None) -> Loss:
    """The metric transformation for this metric and direction; ``name`` overrides the choice.

    Faithfulness (``keep`` mode) is a real number whatever the metric, so it takes ``logistic``. Raises UnknownName.
    """
    chosen = name or ("logistic" if mode == "keep" else TRANSFORM_OF_METRIC.get(metric, "logistic"))
    if chosen not in TRANSFORMS:
        raise unknown("transformation", chosen, TRANSFORMS)
    maximise, minimise = TRANSFORMS[chosen]
    return maximise if direction == "maximise" else minimise


def sparsity(z: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Penalty on the size of the set: sum |z|. (Yan et al. 2026, the sparsity penalty.)"""
    return z.abs().sum()


def binarity(z: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Penalty that is zero exactly on binary masks: sum z (1 - z). (Yan et al. 2026, the binary penalty.)"""
    return (z * (1 - z)).sum()


def penalty(z: Float[Tensor, "n"], l1: float, l2: float, epoch: int) -> Float[Tensor, ""]:
    """Both penalties raised linearly: (e + 1) (l1 sum |z| + l2 sum z (1 - z)), e the epoch from 0 (Yan et al. 2026)."""
    return (epoch + 1) * (l1 * sparsity(z) + l2 * binarity(z))
