"""Entries: feature activations of tokens, kept as the few that are not zero."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True, eq=False)
class Entries:
    """The active features of each token, token by token."""

    token: Int[Tensor, "entry"]
    """Which token, ascending."""
    feature: Int[Tensor, "entry"]
    value: Float[Tensor, "entry"]
    tokens: int
    """How many tokens there are; some may have no entry."""

    @property
    def starts(self) -> Int[Tensor, "token"]:
        """Index of each token's first entry."""
        counts = torch.bincount(self.token, minlength=self.tokens)
        return torch.cumsum(counts, 0) - counts

    def weighted(self, weight: Float[Tensor, "entry"]) -> Entries:
        """Each value times its weight."""
        return replace(self, value=self.value * weight)

    def where(self, wanted: Bool[Tensor, "feature"]) -> Entries:
        """The entries of some features."""
        kept = wanted[self.feature]
        return Entries(self.token[kept], self.feature[kept], self.value[kept], self.tokens)

    def rows(self, index: Int[Tensor, "row"]) -> Entries:
        """The entries of these tokens, in their order, as tokens 0, 1, ... of their own."""
        index = index.to(self.token.device)
        counts = torch.bincount(self.token, minlength=self.tokens)
        starts, lengths = (torch.cumsum(counts, 0) - counts)[index], counts[index]
        token = torch.repeat_interleave(torch.arange(len(index), device=index.device), lengths)
        inside = torch.arange(len(token), device=index.device) - (torch.cumsum(lengths, 0) - lengths)[token]
        at = starts[token] + inside
        return Entries(token, self.feature[at], self.value[at], len(index))

    def repeated(self, copies: int) -> Entries:
        """The tokens side by side, copy after copy."""
        if copies == 1:
            return self
        shift = torch.arange(copies, device=self.token.device).repeat_interleave(len(self.token)) * self.tokens
        token = self.token.repeat(copies) + shift
        return Entries(token, self.feature.repeat(copies), self.value.repeat(copies), copies * self.tokens)

    def decoded(self, rows: Float[Tensor, "feature width"]) -> Float[Tensor, "token width"]:
        """For each token the sum of its features' rows times their values; differentiable in the values."""
        return embedding_bag(self.feature, rows, self.starts, mode="sum", per_sample_weights=self.value)

    def dense(self, features: int) -> Float[Tensor, "token feature"]:
        """All activations, zeros too."""
        empty = self.value.new_zeros(self.tokens, features)
        return empty.index_put((self.token, self.feature), self.value)

    def to(self, device: torch.device) -> Entries:
        """The same on another device."""
        return Entries(self.token.to(device), self.feature.to(device), self.value.to(device), self.tokens)

    @property
    def nbytes(self) -> int:
        """Memory that they take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.token, self.feature, self.value))


def joined(parts: list[Entries]) -> Entries:
    """The tokens of one after those of another."""
    shifts = [0]
    for part in parts:
        shifts.append(shifts[-1] + part.tokens)
    tokens = torch.cat([part.token + shift for part, shift in zip(parts, shifts, strict=False)])
    features, values = torch.cat([part.feature for part in parts]), torch.cat([part.value for part in parts])
    return Entries(tokens, features, values, shifts[-1])
