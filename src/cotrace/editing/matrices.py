"""Matrices: the projection that a component enters or leaves, as a plain [out, in] weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cotrace.errors import UnsupportedSite
from cotrace.models import Place
from cotrace.models.watch import Trace

PLAIN = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})


@dataclass(frozen=True, eq=False)
class Matrix:
    """A projection, and which side of it an edit goes into."""

    module: nn.Module
    columns: bool
    """Whether the edit acts on what enters (columns), or on what leaves (rows)."""
    place: str
    """The place, for messages."""

    @property
    def weight(self) -> Tensor:
        """[out, in], a view."""
        weight: Tensor = self.module.weight.data  # type: ignore[assignment]
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def bias(self) -> Tensor | None:
        """[out]; None where the projection has none."""
        bias = getattr(self.module, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def scale(self) -> Tensor | None:
        """The weight by which a norm or a layer scale multiplies each feature; None for a projection."""
        return scale_of(self.module)

    def set_weight(self, values: Tensor) -> None:
        """Write [out, in] values."""
        self.weight.copy_(values)

    def check(self, whole: nn.Module, *, needs_bias: bool) -> None:
        """Raises UnsupportedSite for a projection that cannot hold the edit."""
        what = f"{self.place}: its {'projection' if self.scale is None else 'norm'}"
        plain = isinstance(self.module, nn.Linear | Conv1D) or self.scale is not None
        if not plain or next(self.module.parameters(recurse=False)).dtype not in PLAIN:
            raise UnsupportedSite(
                f"{what} is quantised or packed ({type(self.module).__name__}): load the "
                "model without quantisation, fold, and quantise the result; or use apply() at run time"
            )
        if needs_bias and self.bias is None:
            raise UnsupportedSite(
                f"{what} has no bias that could hold a mean or vector; use zero or scale, or apply() at run time"
            )
        if others := sharers(self.module, whole):
            raise UnsupportedSite(
                f"{what} shares its weights with {others[0]}, which the edit would change as well; use apply() at run "
                "time"
            )


def scale_of(module: nn.Module) -> Tensor | None:
    """The only vector of a module without parts, its bias apart; None where there is none."""
    own = {name: p.data for name, p in module.named_parameters(recurse=False) if name != "bias"}
    return next(iter(own.values())) if [p.ndim for p in own.values()] == [1] and not list(module.children()) else None


def sharers(module: nn.Module, whole: nn.Module) -> list[str]:
    """Where else in the model a weight of this module is used: under another name, or by another module."""
    own = {parameter.data_ptr() for parameter in module.parameters(recurse=False)}
    uses = [
        name
        for name, part in whole.named_modules(remove_duplicate=False)
        if any(parameter.data_ptr() in own for parameter in part.parameters(recurse=False))
    ]
    return uses[1:]


def matrix_of(trace: Trace, layer: nn.Module, place: Place, *, columns: bool) -> nn.Module | None:
    """The matrix that the place's features enter (columns) or leave (rows), or the norm that they leave.

    None where none has their number."""
    scale = None if columns else scale_of(place.module)
    if scale is not None and scale.shape == (place.units * place.width,):
        return place.module
    if place.tap == "input" or place.module in trace.linear:
        return place.module
    features, side = place.units * place.width, 0 if columns else 1
    when = trace.attention[place.module].order if columns and place.module in trace.attention else 0
    inside = _in_order(layer.modules() if columns else place.module.modules(), trace)
    fitting = [m for m in inside if trace.order[m] > when and trace.linear[m][side] == features and trace.once(m)]
    return next(iter(fitting if columns else fitting[::-1]), None)


def _in_order(modules: Iterable[nn.Module], trace: Trace) -> list[nn.Module]:
    """The matrices among the modules, in the order in which they ran."""
    return sorted((m for m in modules if m in trace.linear), key=trace.order.__getitem__)
