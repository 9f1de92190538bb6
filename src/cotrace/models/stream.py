"""The residual stream's ends: what reads it into logits, and norms as the linear maps that they are at a frozen scale.

No module is believed by its name: a norm is asked what it does to a few vectors, and must do that to the stream's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotrace.components import Site
from cotrace.errors import UnsupportedSite
from cotrace.models.hooks import Trace, probe_ids, watch
from cotrace.models.places import Layer, Place

EXACT = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Relative error allowed between a map and the module's output; norms compute in float32 in float64 models too."""
DIRECTIONS = 256
"""Directions that an output head is asked about at once."""
LARGE = {torch.float16: 2.0**14}
"""A size beside which a norm's epsilon is nothing, where 2^30 is too large for the type."""


@dataclass(frozen=True, eq=False)
class Norm:
    """Formula of an elementwise norm, scale or identity: ``scale(x) * weight * centred(x) + bias``."""

    module: nn.Module | None
    weight: Float[Tensor, "d_model"]
    bias: Float[Tensor, "d_model"]
    centred: bool

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module | None, like: Float[Tensor, "token d_model"]) -> Norm:
        """Found by asking; ``like`` are vectors as the module takes them. Raises UnsupportedSite for anything else."""
        width, kind = like.shape[-1], like.dtype
        if module is None:
            return cls(None, torch.ones_like(like[0]), torch.zeros_like(like[0]), centred=False)
        signs = torch.ones(width, dtype=kind, device=like.device)
        signs[1::2] = -1
        if width % 2:  # the mean of what is asked must be 0
            signs[-1] = 0
        large = LARGE.get(kind, 2.0**30)
        bias = module(torch.zeros_like(like[:1]))[0]
        weight = torch.where(signs == 0, 0, (module(large * signs[None])[0] - bias) * signs)
        if width % 2:
            weight[-1] = ((module(large * signs.roll(1)[None])[0] - bias) * signs.roll(1))[-1]
        shift = like.float().square().mean().sqrt().to(kind)
        moved, still = module(like[:1] + shift) - bias, module(like[:1]) - bias
        found = cls(module, weight, bias, centred=bool((moved - still).norm() <= 1e-2 * still.norm()))
        found.check(like)
        return found

    def check(self, values: Float[Tensor, "token d_model"]) -> None:
        """Raise UnsupportedSite where the module does something else to these vectors."""
        given = self(values)
        kind = EXACT.get(values.dtype, 1e-4)
        if not bool((self.linear(values, values) + self.bias - given).norm() <= kind * given.norm()):
            raise UnsupportedSite(
                f"{type(self.module).__name__} is no norm that is linear at a frozen scale, so what is behind it "
                "cannot be told apart"
            )

    @torch.no_grad()
    def __call__(self, values: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """Return the module's own output."""
        found: Tensor = values if self.module is None else self.module(values)
        return found

    def _centre(self, values: Tensor) -> Tensor:
        return values - values.mean(-1, keepdim=True) if self.centred else values

    def scale(self, at: Float[Tensor, "token d_model"]) -> Float[Tensor, "token 1"]:
        """The scale at which the norm is frozen."""
        if self.module is None:
            return torch.ones_like(at[:, :1])
        plain = self.weight * self._centre(at)
        size = plain.square().sum(-1, keepdim=True)
        scale = ((self(at) - self.bias) * plain).sum(-1, keepdim=True) / size
        return torch.where(size > 0, scale, 1.0)  # of nothing, whatever the scale

    def weighted(self, values: Float[Tensor, "*part d_model"]) -> Float[Tensor, "*part d_model"]:
        """The values as the norm turns them, whatever its scale."""
        return self.weight * self._centre(values)

    def linear(
        self, at: Float[Tensor, "token d_model"], values: Float[Tensor, "*part token d_model"]
    ) -> Float[Tensor, "*part token d_model"]:
        """The values' part in the output, with the scale that the norm has at ``at``."""
        return self.scale(at) * self.weighted(values)

    def pulled(
        self, at: Float[Tensor, "token d_model"], direction: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """The direction before the norm along which a value counts as much as behind it along ``direction``."""
        return self.scale(at) * self._centre(self.weight * direction)


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The map from the stream behind the last layer to logits."""

    norm: nn.Module | None
    scale: float
    """Factor between the norm's output and the output head."""
    head: nn.Module
    logit_scale: float | None
    """Factor behind the head's output; None where more is done to it, such as a cap."""
    weight: Float[Tensor, "vocabulary d_model"]
    """The output head's matrix."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, layers: Sequence[Layer]) -> Unembedding:
        """Found in one short run. Raises UnsupportedSite where something other than a norm lies between."""
        trace, head = watch(model), model.get_output_embeddings()
        behind, read = trace.left[layers[-1].module], trace.entered[head]
        inside = {module for layer in layers for module in layer.module.modules()}
        norm = next((m for m in model.modules() if m not in inside and _normed(m, behind, read, trace)), None)
        factor = _factor(behind if norm is None else trace.left[norm], read)
        if factor is None:
            raise UnsupportedSite(
                f"{type(model).__name__}: between the last layer and the logits there is more than one norm, so what "
                "is written cannot be told apart"
            )
        logits = model(input_ids=probe_ids(model), use_cache=False).logits
        return cls(norm, factor, head, _factor(trace.left[head], logits), _matrix(head, read))

    def bias(self, tokens: Tensor) -> Tensor:
        """The head's own bias of these tokens, 0 where it has none."""
        bias = getattr(self.head, "bias", None)
        return (
            torch.zeros(tokens.shape, dtype=self.weight.dtype) if bias is None else bias[tokens.to(bias.device)].cpu()
        )


def _matrix(head: nn.Module, read: Tensor) -> Float[Tensor, "vocabulary d_model"]:
    """Return the head's weight; for a quantised one its output for each direction.

    Raises UnsupportedSite where that is not what it does to ``read``, as where it rounds what it reads too.
    """
    weight = head.weight
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2:
        return weight
    width, given = read.shape[-1], read.reshape(-1, read.shape[-1])
    nothing = head(torch.zeros_like(given[:1]))
    directions = torch.eye(width, dtype=read.dtype, device=read.device)
    some = (directions[at : at + DIRECTIONS] for at in range(0, width, DIRECTIONS))
    matrix = torch.cat([head(own) - nothing for own in some]).T
    made = head(given) - nothing
    if not bool((given @ matrix.T - made).norm() <= EXACT.get(read.dtype, 1e-4) * made.norm()):
        raise UnsupportedSite(
            f"the output head ({type(head).__name__}) is stored in fewer bits and rounds what it reads, so what is "
            "written cannot be told apart: load the model without quantise, or leave its output head out of it"
        )
    return matrix


def _normed(module: nn.Module, behind: Tensor, read: Tensor, trace: Trace) -> bool:
    """Whether a module takes what the last layer gives, and gives what the head reads, but for a factor."""
    if not trace.once(module) or module not in trace.left or list(module.children()):
        return False
    given, made = trace.entered[module], trace.left[module]
    same = given.shape == behind.shape == made.shape and bool((given == behind.to(given.device)).all())
    return same and made.shape == read.shape and _factor(made, read) is not None


def _factor(values: Tensor, other: Tensor) -> float | None:
    """Return the factor between the values and the others; None where they are not multiples."""
    if values.shape != other.shape:
        return None
    a, b = values.double().flatten().cpu(), other.double().flatten().cpu()
    factor = float(a @ b / (a @ a))
    close = float((b - factor * a).norm()) <= EXACT.get(values.dtype, 1e-4) * float(b.norm())
    return (1.0 if abs(factor - 1) < 1e-6 else factor) if close and factor else None


def post_norm(place: Place) -> nn.Module | None:
    """The norm through which a layer adds an output to the stream; None where the place is not such a module."""
    plain = not list(place.module.children()) and all(p.ndim < 2 for p in place.module.parameters())
    return place.module if plain and place.site in (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT) else None
