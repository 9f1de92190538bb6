"""Adam as a value: its moments can be stored and taken up again.

Source: Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015; operations ordered as in torch.optim.Adam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Adam:
    """A point with its first and second moment after t steps."""

    z: Float[Tensor, "n"]
    first: Float[Tensor, "n"]
    second: Float[Tensor, "n"]
    t: int = 0

    @classmethod
    def at(cls, z: Float[Tensor, "n"]) -> Adam:
        """Adam that has not taken a step yet."""
        return cls(z=z, first=torch.zeros_like(z), second=torch.zeros_like(z))

    def step(
        self, gradient: Float[Tensor, "n"], lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> Adam:
        """Adam after one step against this gradient."""
        t = self.t + 1
        first = self.first.lerp(gradient, 1 - beta1)
        second = (self.second * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second.sqrt() / math.sqrt(1 - beta2**t)).add_(eps)
        z = self.z.addcdiv(first, scale, value=-lr / (1 - beta1**t))
        return Adam(z=z, first=first, second=second, t=t)

    def clamped(self) -> Adam:
        """The same with z projected to [0, 1]."""
        return Adam(z=self.z.clamp(0, 1), first=self.first, second=self.second, t=self.t)

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors; t is not among them."""
        return {"z": self.z, "first": self.first, "second": self.second}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], t: int) -> Adam:
        """Inverse of ``to_tensors``."""
        return cls(z=tensors["z"].clone(), first=tensors["first"].clone(), second=tensors["second"].clone(), t=t)
