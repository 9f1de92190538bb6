"""Shape: what other tools ask of a model, found by running it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cotrace.components import Component, Site
from cotrace.errors import InputError, UnsupportedSite
from cotrace.models import LanguageModel
from cotrace.models.language_model import evaluating
from cotrace.models.taps import tapped
from cotrace.models.watch import probe_ids


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of MIB's ``cfg``."""

    n_layers: int
    n_heads: int
    d_model: int
    parallel_attn_mlp: bool
    """Whether a layer's MLP reads what its attention read, not what that added."""

    @classmethod
    def of(cls, model: LanguageModel) -> Shape:
        """The shape of a model. Raises UnsupportedSite where layers differ or lack heads or an MLP."""
        heads = {layer.heads for layer in model.layers}
        mlps = [layer.place(Site.MLP_OUTPUT) for layer in model.layers]
        if len(heads) > 1 or 0 in heads or not all(mlps):
            raise UnsupportedSite(
                f"{model.name}: MIB's format needs the same heads and one MLP in every layer, which this model has not"
            )
        width = next(place.width for place in mlps if place is not None)
        return cls(
            n_layers=len(mlps), n_heads=heads.pop(), d_model=width, parallel_attn_mlp=not mlp_reads_attention(model)
        )

    def check(self, name: str, components: Iterable[Component]) -> None:
        """Raise InputError for a component that a model of this shape has not."""
        for component in components:
            if component.layer >= self.n_layers or (component.unit or 0) >= self.n_heads:
                size = f"{self.n_layers} layers of {self.n_heads} heads"
                raise InputError(f"{name} has no {component}: it has {size}; give the selection's own model")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def mlp_reads_attention(model: LanguageModel) -> bool:
    """Whether the MLP's output changes where its own layer's attention output does, everything before it equal."""
    layer = model.layers[0]
    attention, mlp = layer.place(Site.ATTENTION_OUTPUT), layer.place(Site.MLP_OUTPUT)
    assert attention is not None, "a layer with heads has their sum"
    assert mlp is not None, "the shape has been checked"
    seen: list[Tensor] = []

    def note(own: Tensor) -> Tensor:
        seen.append(own.detach().clone())
        return own

    def bend(own: Tensor) -> Tensor:
        return own + torch.linspace(-1, 1, own.shape[-1], device=own.device, dtype=own.dtype)

    with torch.no_grad(), evaluating(model.module):
        for edit in (lambda own: own, bend):
            with tapped(model.module, [(attention, edit), (mlp, note)]):
                model.module(probe_ids(model.module))
    return not torch.equal(*seen)
