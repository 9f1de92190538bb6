"""Activation checkpointing: each decoder layer keeps what enters it only, and runs again in the backward pass.

The library's own acts in training mode only and drops the cache of the prefix. This one runs the layer's own forward
again as it was run: in evaluation mode, parameters frozen, under the same taps, and with a cache that only gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from cotrace.interventions.frozen import frozen
from cotrace.models import LanguageModel, tapped
from cotrace.models.internals import fresh_frequencies
from cotrace.models.language_model import evaluating
from cotrace.models.taps import TapList


@contextmanager
def recomputing(model: LanguageModel, taps: TapList, eager: bool) -> Iterator[None]:
    """Layers that run inside keep their input only; instances alone are touched, and are as before afterwards."""
    eager = eager or any(place.tap == "pattern" for place, _ in taps)
    with ExitStack() as stack:
        for layer in model.layers:
            inside = [(p, edit) for p, edit in taps if p.layer == layer.index and p.module is not layer.module]
            stack.enter_context(_recomputed(layer.module, _again(model, layer.module, inside, eager)))
        yield


def _again(model: LanguageModel, layer: nn.Module, taps: TapList, eager: bool) -> Callable[[], Any]:
    """The surroundings of the second run, which comes when those of the first are gone."""

    @contextmanager
    def surroundings() -> Iterator[None]:
        with evaluating(layer), frozen(layer), fresh_frequencies(layer), tapped(model.module, taps, eager):
            yield

    return lambda: (nullcontext(), surroundings())


@contextmanager
def _recomputed(module: nn.Module, context: Callable[[], Any]) -> Iterator[None]:
    inner, before = module.forward, vars(module).get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(inner, *args, use_reentrant=False, preserve_rng_state=False, context_fn=context, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
