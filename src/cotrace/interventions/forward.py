"""One forward pass over a layout: inputs, taps, and logits at the positions where answers are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from cotrace.batches import Layout
from cotrace.interventions.frozen import frozen
from cotrace.interventions.recompute import recomputing
from cotrace.interventions.shortcut import Entry, Stations, entering, noting
from cotrace.models import LanguageModel, tapped
from cotrace.models.internals import fresh_frequencies
from cotrace.models.language_model import evaluating
from cotrace.models.taps import TapList


def forward(
    model: LanguageModel,
    layout: Layout,
    taps: TapList,
    copies: int = 1,
    eager: bool = False,
    cache: DynamicCache | None = None,
    entry: Entry | None = None,
    stations: Stations | None = None,
    recompute: bool = False,
) -> Float[Tensor, "copy read vocab"]:
    """Logits at ``layout.read_at`` of each of ``copies`` runs side by side; each tap sees [copies * row, ...].

    ``cache`` holds the keys and values of the layout's kept prefixes, and takes those of its rows. With ``entry`` the
    layers below it are not computed; ``stations`` are filled for such runs to come. With ``recompute`` the layers'
    activations are computed again in the backward pass and not kept for it.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluating(model.module))
        stack.enter_context(frozen(model.module))
        if model.growing_frequencies:
            stack.enter_context(fresh_frequencies(model.module))
        stack.enter_context(tapped(model.module, taps, eager))
        if stations is not None:
            stack.enter_context(noting(model, stations))
        if entry is not None:
            stack.enter_context(entering(model, entry, copies))
        if recompute:
            stack.enter_context(recomputing(model, taps, eager))
        gathered = stack.enter_context(_read_only(model, layout, copies))
        arguments = inputs(model, layout, copies)
        if cache is not None:
            arguments["past_key_values"] = cache
        logits = model.module(**arguments, use_cache=cache is not None).logits
    return logits if gathered else _gather(logits, layout, copies)


def inputs(model: LanguageModel, layout: Layout, copies: int) -> dict[str, Any]:
    """Keyword inputs of the model for a layout; rows are repeated copy by copy."""
    device = model.device
    ids = layout.input_ids.to(device).repeat(copies, 1)
    if not layout.masked:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}  # nothing real stands behind the padding
    hidden = ~layout.allowed()
    mask = torch.zeros(hidden.shape, dtype=model.dtype).masked_fill_(hidden, torch.finfo(model.dtype).min)
    return {
        "input_ids": ids,
        "position_ids": layout.position_ids.to(device).repeat(copies, 1),
        "attention_mask": mask[:, None].to(device).repeat(copies, 1, 1, 1),
    }


@contextmanager
def _read_only(model: LanguageModel, layout: Layout, copies: int) -> Iterator[list[bool]]:
    """Apply the output head only at the positions that are read. Gives a list that is filled once it happened."""
    head = model.module.get_output_embeddings()
    happened: list[bool] = []

    def narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        happened.append(True)
        return (_gather(args[0], layout, copies), *args[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield happened
    finally:
        handle.remove()


def _gather(values: Float[Tensor, "rows pos f"], layout: Layout, copies: int) -> Float[Tensor, "copy read f"]:
    flat = values.reshape(copies, layout.rows * layout.length, values.shape[-1])
    return flat[:, layout.read_at.to(values.device)]
