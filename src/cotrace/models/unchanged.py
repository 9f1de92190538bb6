"""ModelState: what a model's scores depend on, noted once, so that a change behind a problem's back is found."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cotrace.errors import ModelError
from cotrace.models.internals import implementation_names
from cotrace.models.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class ModelState:
    """A model's modules, weights and attention as they were when donor values and base scores were computed.

    Weights are known by their version counter and place in memory, and by a sample of their numbers that touches every
    row and column: an edit through ``.data`` moves neither of the former.
    """

    model: LanguageModel
    modules: tuple[nn.Module, ...]
    attention: tuple[str, ...]
    weights: tuple[tuple[int, int, torch.dtype, torch.device], ...]
    samples: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: LanguageModel) -> ModelState:
        """As it is now."""
        held = _weights(model.module)
        samples = tuple(_sample(weight).clone() for weight in held.values())
        return cls(
            model,
            tuple(model.module.modules()),
            implementation_names(model.module),
            tuple(map(_mark, held.values())),
            samples,
        )

    def check(self) -> None:
        """Raise ModelError where something has changed since."""
        changed = self._changed()
        if changed:
            raise ModelError(
                f"{self.model.name} is not as it was when the problem was made: {changed}, so donor values and base "
                "scores are those of another model; make the problem anew"
            )

    def _changed(self) -> str:
        module = self.model.module
        if implementation_names(module) != self.attention:
            return f"its attention implementation was {_words(self.attention)}"
        if tuple(module.modules()) != self.modules:
            return "a module has been replaced, added or removed"
        held = _weights(module)
        if len(held) != len(self.weights):
            return "a weight has been added or removed"
        for (name, weight), mark, sample in zip(held.items(), self.weights, self.samples, strict=True):
            if weight.dtype != mark[2]:
                return f"{name} was of type {str(mark[2]).removeprefix('torch.')}"
            if weight.device != mark[3]:
                return f"{name} was on {mark[3]}"
            if _mark(weight) != mark or not torch.equal(_sample(weight), sample):
                return f"the weights {name} have changed"
        return ""


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(names))


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, but for those that stand elsewhere and come when they are needed."""
    held = dict(module.named_parameters())
    for prefix, part in module.named_modules():
        saved = [name for name in part._buffers if name not in part._non_persistent_buffers_set]  # noqa: SLF001
        held |= {f"{prefix}.{name}": found for name in saved if (found := part._buffers[name]) is not None}  # noqa: SLF001
    return {name: weight for name, weight in held.items() if not weight.is_meta}


def _mark(weight: Tensor) -> tuple[int, int, torch.dtype, torch.device]:
    return weight._version, weight.data_ptr(), weight.dtype, weight.device  # noqa: SLF001


def _sample(weight: Tensor) -> Tensor:
    """Every so-manieth number, so that each row and each column of a matrix has one."""
    flat = weight.detach().reshape(-1)
    if weight.ndim < 2:
        return flat
    columns = weight.shape[-1]
    step = max(1, min(len(flat) // max(columns, 1), columns - 1))
    while math.gcd(step, columns) != 1:
        step -= 1
    return flat[::step]


def fingerprints(model: LanguageModel) -> dict[str, str]:
    """Weight -> hash of a sample of its numbers that touches every row and column; those kept elsewhere have none.

    Equal for replicas of one model of one number type, wherever they are.
    """
    samples = {name: _sample(weight).contiguous().cpu() for name, weight in _weights(model.module).items()}
    return {name: hashlib.sha256(one.view(torch.uint8).numpy().tobytes()).hexdigest() for name, one in samples.items()}
