"""Watching one short forward pass: which parts of a model ran, in what order, on what shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotrace.errors import ModelError
from cotrace.models.experts import expert_count
from cotrace.models.internals import AttentionCall, attention_handler, compute_device

REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a model may raise when it is called in a way that it does not take."""
PROBE_ROWS, PROBE_TOKENS = 2, 3
"""Different, so that a tensor laid out [pos, row] is not taken for [row, pos]."""


@dataclass(frozen=True)
class Heads:
    """The shapes of one attention call."""

    count: int
    kv_count: int
    width: int
    """Numbers in one head's output."""
    order: int
    """When the call was made, on the same clock as ``Trace.order``."""


@dataclass
class Trace:
    """What was seen. A module that ran several times is known by its last run; ``calls`` says how often it ran."""

    attention: dict[nn.Module, Heads] = field(default_factory=dict)
    linear: dict[nn.Module, tuple[int, int]] = field(default_factory=dict)
    """Matrix -> (features in, features out)."""
    experts: dict[nn.Module, int] = field(default_factory=dict)
    """Module that runs the chosen experts -> number of experts."""
    order: dict[nn.Module, int] = field(default_factory=dict)
    """When each module finished."""
    calls: Counter[nn.Module] = field(default_factory=Counter)
    attention_calls: Counter[nn.Module] = field(default_factory=Counter)
    entered: dict[nn.Module, Tensor] = field(default_factory=dict)
    """The first tensor that a module was given."""
    beside: dict[nn.Module, tuple[Tensor, ...]] = field(default_factory=dict)
    """All floating tensors that a module was given."""
    left: dict[nn.Module, Tensor] = field(default_factory=dict)
    """The first tensor that a module gave."""

    clock: int = 0

    def tick(self) -> int:
        """The next moment."""
        self.clock += 1
        return self.clock

    def width(self, module: nn.Module) -> int | None:
        """Numbers per token in the module's output; None where it is not laid out row by row, token by token."""
        return token_width(self.left.get(module))

    def once(self, module: nn.Module) -> bool:
        """Whether the module ran exactly once: a place that is passed twice is not one place."""
        return self.calls[module] == 1


def token_width(value: Tensor | None) -> int | None:
    """Last axes of ``[row, pos, ...]`` or ``[row * pos, ...]`` for the probe's rows and positions."""
    if value is None or value.ndim < 2:
        return None
    rows = value.shape[:2] == (PROBE_ROWS, PROBE_TOKENS) and value.ndim > 2
    flat = value.shape[0] == PROBE_ROWS * PROBE_TOKENS
    return value.numel() // (PROBE_ROWS * PROBE_TOKENS) if rows or flat else None


def probe_ids(model: PreTrainedModel) -> Tensor:
    """A few different tokens, [row, pos]."""
    count, vocabulary = PROBE_ROWS * PROBE_TOKENS, model.get_input_embeddings().weight.shape[0]
    ids: Tensor = (5 + 3 * torch.arange(count, device=compute_device(model))) % vocabulary
    return ids.reshape(PROBE_ROWS, PROBE_TOKENS)


def watch(model: PreTrainedModel) -> Trace:
    """Run the probe through the model and note what happens."""
    trace = Trace()

    def note_attention(module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.original()
        trace.attention_calls[module] += 1
        trace.attention[module] = Heads(output.shape[2], call.key.shape[1], output.shape[3], trace.tick())
        return output, weights

    with ExitStack() as stack:
        for module in model.modules():
            handle = module.register_forward_hook(_noter(trace), with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(attention_handler(model, note_attention))
        stack.enter_context(torch.no_grad())
        try:
            model(input_ids=probe_ids(model), use_cache=False)
        except REFUSALS as error:
            raise ModelError(
                f"{type(model).__name__} does not run on token ids alone ({str(error).splitlines()[0]}): "
                "cotrace traces decoders that do"
            ) from error
    return trace


def _noter(trace: Trace) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        trace.calls[module] += 1
        trace.order[module] = trace.tick()
        given = args[0] if args else kwargs.get("hidden_states")
        made = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(given, Tensor) and isinstance(made, Tensor):
            trace.entered[module], trace.left[module] = given, made
            floats = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point())
            trace.beside[module] = tuple(floats)
            if _is_linear(module) and given.is_floating_point() and isinstance(output, Tensor):
                trace.linear[module] = (given.shape[-1], made.shape[-1])
        if isinstance(output, Tensor) and (count := expert_count(module, args, kwargs)):
            trace.experts[module] = count

    return note


def _is_linear(module: nn.Module) -> bool:
    """Whether the module is a matrix of its own: a leaf with a two-dimensional weight (Linear, Conv1D, quantised)."""
    weight = getattr(module, "weight", None)
    return not list(module.children()) and isinstance(weight, Tensor) and weight.ndim == 2
