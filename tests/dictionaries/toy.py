"""Random dictionaries of a tiny model, and what they do, by hand: plain hooks and dense activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cotrace.dictionaries import Dictionary
from tests import tiny

WIDTH, FEATURES = 32, 40
MODEL = tiny.model("gpt2")
TASK = tiny.task()
ALL = torch.float64


def dictionary(hook: str, seed: int, *, hook_out: str | None = None, width: int = WIDTH, **rest: Any) -> Dictionary:
    """A random one, of which about half the features are active at a time."""
    draw = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=ALL)

    return Dictionary(
        name=f"random/{seed}",
        hook=hook,
        hook_out=hook_out or hook,
        encoder=numbers(FEATURES, width),
        bias=0.1 * numbers(FEATURES),
        decoder=0.2 * numbers(FEATURES, width if hook_out is None else WIDTH),
        offset=0.1 * numbers(width if hook_out is None else WIDTH),
        **rest,
    )


def dense(one: Dictionary, values: Tensor) -> Tensor:
    """Activations by the definition."""
    if one.norm == "layer_norm":
        values = values - values.mean(-1, keepdim=True)
        values = values / (values.std(-1, keepdim=True) + 1e-5)
    raw = values @ one.encoder.T + one.bias
    if one.k is not None:
        kept = torch.zeros_like(raw).scatter(-1, raw.topk(one.k).indices, 1.0)
        return raw.clamp(min=0) * kept
    return raw.clamp(min=0) * (raw > (0 if one.threshold is None else one.threshold))


MODULES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "hook_mlp_out": lambda block: block.mlp,
    "hook_resid_post": lambda block: block,
    "hook_attn_out": lambda block: block.attn.c_proj,
    "mlp.hook_in": lambda block: block.mlp,
}


@contextmanager
def by_hand(
    dictionaries: Sequence[Dictionary], act: Callable[[int, Dictionary, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Each dictionary's place goes on with ``act(layer, dictionary, read, written)``."""
    handles = []
    noted: dict[int, Tensor] = {}
    for one in dictionaries:
        layer, end = int(one.hook_out.split(".")[1]), one.hook_out.split(".", 2)[2]
        module = MODULES[end](MODEL.module.transformer.h[layer])

        def note(_: nn.Module, args: tuple[Tensor, ...], *, at: int = layer) -> None:
            noted[at] = args[0]

        def change(_: nn.Module, __: Any, out: Any, *, at: int = layer, own: Dictionary = one) -> Any:
            written = out[0] if isinstance(out, tuple) else out
            found = act(at, own, noted[at] if own.is_transcoder else written, written)
            return (found, *out[1:]) if isinstance(out, tuple) else found

        handles += [module.register_forward_pre_hook(note), module.register_forward_hook(change)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
