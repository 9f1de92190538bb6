"""Entries: feature activations of tokens, kept as the few that are not zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from cotrace.errors import InputError, NonFiniteError
from cotrace.validation import guarded


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


Norm = Literal["none", "constant_norm_rescale", "layer_norm"]
NORMS: tuple[Norm, ...] = ("none", "constant_norm_rescale", "layer_norm")
SMALLEST_STD = 1e-5
CHUNK = 1 << 25
"""Activations, zeros too, that are computed at a time."""


@guarded("ct.Dictionary", fields=False)
@dataclass(frozen=True, eq=False, kw_only=True)
class Dictionary:
    """A dictionary of features at one place of a model, or from one place to another (a transcoder).

    A feature's pre-activation is ``encoder @ (normed input - shift) + bias``. It is active where that is above 0 and
    above its threshold, or, with ``k``, above 0 and among the k largest of the token; its activation is then the
    pre-activation itself. Gated dictionaries are of this form (Rajamanoharan et al., 2024, arXiv 2404.16014).
    """

    name: str
    """Name of the dictionary in messages."""
    hook: str
    """The place that it reads, as TransformerLens or the model itself names it."""
    hook_out: str
    """The place that it writes; the one that it reads, unless it is a transcoder."""
    encoder: Float[Tensor, "feature d_in"] = field(repr=False)
    """Encoder rows [feature, d_in]."""
    bias: Float[Tensor, "feature"] = field(repr=False)
    """Encoder bias [feature]."""
    decoder: Float[Tensor, "feature d_out"] = field(repr=False)
    """Decoder rows [feature, d_out]."""
    offset: Float[Tensor, "d_out"] = field(repr=False)
    """Constant part of a reconstruction: the decoder's bias."""
    shift: Float[Tensor, "d_in"] | None = field(default=None, repr=False)
    """Vector that is subtracted from the normed input first."""
    threshold: Float[Tensor, "feature"] | None = field(default=None, repr=False)
    """JumpReLU threshold of each feature [feature]; None for 0."""
    k: int | None = None
    """Most features active on a token; None for no bound."""
    skip: Float[Tensor, "d_out d_in"] | None = field(default=None, repr=False)
    """A transcoder's linear way past its features."""
    norm: Norm = "none"
    """Norm of each token's input, undone in the reconstruction."""
    head: int | None = None
    """The one head of ``hook`` that it is of; None where it is of all that stands there."""
    architecture: str = "standard"
    """Architecture in SAELens' words, such as ``topk``."""
    model_name: str | None = None
    """The model that it was trained on."""
    neuronpedia: str | None = None
    """Its id there, such as gpt2-small/8-res-jb."""
    sha256: str | None = None
    """Hash of the file that holds its weights."""

    def __post_init__(self) -> None:
        n = len(self.bias)
        shapes = {
            "encoder": (n, self.d_in),
            "decoder": (n, self.d_out),
            "offset": (self.d_out,),
            "shift": (self.d_in,),
            "threshold": (n,),
            "skip": (self.d_out, self.d_in),
        }
        for name, shape in shapes.items():
            found = getattr(self, name)
            if found is not None and tuple(found.shape) != shape:
                raise InputError(
                    f"dictionary {self.name}: its {name} has shape {list(found.shape)}, not {list(shape)} as the rest "
                    "says; get the file again"
                )
        for name, tensor in self.tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError(
                    f"dictionary {self.name}: its {name} holds values that are not finite; get the file again, or "
                    "train it anew"
                )
        if self.k is not None and not 0 < self.k <= n:
            raise InputError(f"dictionary {self.name}: k is {self.k}, and it has {n} features; correct its cfg.json")

    @property
    def size(self) -> int:
        """How many features it has."""
        return len(self.bias)

    @property
    def d_in(self) -> int:
        """Numbers of the place that it reads."""
        return self.encoder.shape[1]

    @property
    def d_out(self) -> int:
        """Numbers of the place that it writes."""
        return self.decoder.shape[1]

    @property
    def is_transcoder(self) -> bool:
        """Whether it reads one place and writes another."""
        return self.hook != self.hook_out

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its weights by name; those that it lacks left out."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Dictionary:
        """The same with weights there and of that type.

        Args:
            device: Device of the weights.
            dtype: Number type of the weights.
        """
        moved: dict[str, Any] = {name: tensor.detach().to(device, dtype) for name, tensor in self.tensors.items()}
        return replace(self, **moved)

    def encode(self, values: Float[Tensor, "*token d_in"], features: Int[Tensor, "some"] | None = None) -> Entries:
        """Active features of each token, differentiable in the values; only of some ``features`` where asked.

        Tokens with several axes are counted as one flat list.
        """
        rows = self._normed(values.reshape(-1, self.d_in).to(self.encoder.dtype))
        with torch.no_grad():
            found = joined([self._active(part, features) for part in torch.split(rows, self._chunk(features))])
        if not rows.requires_grad:
            return found
        value: Tensor = _Slopes.apply(rows, found.value, found, self.encoder)  # type: ignore[no-untyped-call]
        return replace(found, value=value)

    def activations(self, values: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token feature"]:
        """Activations of all features of each token, as SAELens' ``encode`` gives them.

        Args:
            values: Values at the place that it reads [*token, d_in].
        """
        return self.encode(values).dense(self.size).reshape(*values.shape[:-1], self.size)

    def decode(
        self, activations: Float[Tensor, "*token feature"], values: Float[Tensor, "*token d_in"] | None = None
    ) -> Float[Tensor, "*token d_out"]:
        """The reconstruction from activations. ``values``, those encoded, are needed where the input is normed or
        a skip goes by the features. Raises InputError where they are missing."""
        if values is None and (self.norm != "none" or self.skip is not None):
            raise InputError(f"dictionary {self.name}: give decode the values that were encoded, which it needs")
        found = activations @ self.decoder
        return found + self.offset if values is None else self._completed(found, values.to(self.encoder.dtype))

    def reconstruct(self, values: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token d_out"]:
        """The reconstruction of values: ``decode`` of ``encode``, without the zeros in between."""
        values = values.to(self.encoder.dtype)
        found = self.encode(values).decoded(self.decoder)
        return self._completed(found.reshape(*values.shape[:-1], self.d_out), values)

    def _completed(
        self, found: Float[Tensor, "*token d_out"], values: Float[Tensor, "*token d_in"]
    ) -> Float[Tensor, "*token d_out"]:
        """Decoded features with all that a reconstruction has beside them."""
        found = found + self.offset
        if self.skip is not None:
            found = found + values @ self.skip.T
        if self.is_transcoder or self.norm == "none":
            return found
        found = found * self.size_of(values)
        return found + values.mean(-1, keepdim=True) if self.norm == "layer_norm" else found

    def size_of(self, values: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token 1"]:
        """Return the factor of each token's decoded features over the decoder's rows: the norm of its input.

        Args:
            values: Values at the place that it reads [*token, d_in].
        """
        if self.norm == "none" or self.is_transcoder:
            return values.new_ones(*values.shape[:-1], 1)
        if self.norm == "constant_norm_rescale":
            length: Tensor = values.norm(dim=-1, keepdim=True)
            return length / math.sqrt(self.d_in)
        spread: Tensor = values.std(-1, keepdim=True)
        return spread

    def _normed(self, values: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        if self.norm == "constant_norm_rescale":
            values = values * (math.sqrt(self.d_in) / values.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        elif self.norm == "layer_norm":
            centred = values - values.mean(-1, keepdim=True)
            values = centred / (values.std(-1, keepdim=True) + SMALLEST_STD)
        return values if self.shift is None else values - self.shift

    def _active(self, rows: Float[Tensor, "token d_in"], features: Int[Tensor, "some"] | None) -> Entries:
        """Active features of normed rows."""
        if self.k is not None:
            return self._largest(rows)
        some = slice(None) if features is None else features
        raw = rows @ self.encoder[some].T  # the bias is added to the few that are active
        at = _above(raw, self._least[some])
        token, column = at // raw.shape[1], at % raw.shape[1]
        feature = column if features is None else features[column]
        return Entries(token, feature, raw.flatten()[at] + self.bias[feature], len(rows))

    def _largest(self, rows: Float[Tensor, "token d_in"]) -> Entries:
        raw = torch.addmm(self.bias, rows, self.encoder.T)
        value, feature = raw.topk(self.k or 1, dim=-1)
        token, place = torch.nonzero(value > 0, as_tuple=True)
        return Entries(token, feature[token, place], value[token, place], len(rows))

    @cached_property
    def _least(self) -> Float[Tensor, "feature"]:
        """Return the threshold of a feature's pre-activation without its bias."""
        lowest = torch.zeros_like(self.bias) if self.threshold is None else self.threshold.clamp(min=0)
        return lowest - self.bias

    def _chunk(self, features: Int[Tensor, "some"] | None) -> int:
        """Tokens at a time."""
        count = self.size if features is None or self.k is not None else len(features)
        return max(1, CHUNK // max(count, 1))


def _above(values: Float[Tensor, "row column"], least: Float[Tensor, "column"]) -> Int[Tensor, "entry"]:
    """Flat indices of the values above the least of their column; on a processor by numpy, 6 times as fast."""
    if values.device.type != "cpu":
        return torch.nonzero((values > least).flatten()).flatten()
    return torch.from_numpy(np.flatnonzero(values.numpy() > least.numpy()))


class _Slopes(torch.autograd.Function):
    """Activations as they are; their gradient goes to the input through the encoder's rows of those active."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, value: Tensor, found: Entries, encoder: Tensor) -> Tensor:
        ctx.found, ctx.encoder = found, encoder
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        return replace(ctx.found, value=slope).decoded(ctx.encoder), None, None, None
