"""Recording: run the donor prompts once and keep what stands at each place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cotrace.batches import EncodedPair, Layout, Packing, donor_layouts, donor_tokens
from cotrace.donors.store import RecordedDonors
from cotrace.interventions import forward
from cotrace.interventions.storage import Keep, in_memory
from cotrace.models import LanguageModel, Place
from cotrace.models.taps import Edit

Perturb = Callable[[Layout, Tensor], Tensor]
"""(layout, token embeddings [row, pos, d_model]) -> embeddings that the donor run starts from."""


def record(
    model: LanguageModel,
    pairs: Sequence[EncodedPair],
    places: Sequence[Place],
    packing: Packing,
    perturb: Perturb | None = None,
    *,
    keep: Keep = in_memory,
    layouts: Sequence[Layout] | None = None,
) -> RecordedDonors:
    """The values of the pairs' donor runs at these places, in the room that ``keep`` gives. Raises NoRoom.

    ``layouts``: the batches of those runs, where they were cut for more pairs than these.
    """
    store = _empty_store(model, pairs, places, packing, keep)
    for layout in _passes(donor_layouts(pairs, packing) if layouts is None else layouts):
        edits = [(place, _recorder(store, place, layout)) for place in places]
        with torch.no_grad(), perturbed(model, layout, perturb):
            forward(model, layout, edits)
    return store


def _passes(layouts: Iterable[Layout]) -> Iterator[Layout]:
    """The forward passes of the donor runs."""
    return (layout for whole in layouts for layout in whole.passes)


def mean_values(
    model: LanguageModel, pairs: Sequence[EncodedPair], places: Sequence[Place], packing: Packing, per_position: bool
) -> dict[Place, Float[Tensor, "position feature"]]:
    """The mean value at each place over the tokens of the pairs' donor runs: one row, or one for each position.

    Sums run along with the passes, in double precision, so that no more than one pass is in memory.
    """
    _, lengths = _sizes(pairs, packing)
    rows = int(lengths.max()) if per_position else 1
    sums = {place: torch.zeros(rows, place.units * place.width, dtype=torch.float64) for place in places}
    counts = torch.zeros(rows, dtype=torch.float64)
    for layout in _passes(donor_layouts(pairs, packing)):
        real = torch.nonzero(layout.source.flatten() >= 0).flatten()
        at = layout.position_ids.flatten()[real] if per_position else torch.zeros_like(real)
        counts += torch.bincount(at, minlength=rows)
        edits = [(place, _adder(sums[place], real, at)) for place in places]
        with torch.no_grad():
            forward(model, layout, edits)
    return {place: (total / counts[:, None]).to(model.device, model.dtype) for place, total in sums.items()}


def _adder(total: Float[Tensor, "row feature"], real: Int[Tensor, "token"], at: Int[Tensor, "token"]) -> Edit:
    """Adds the values of these tokens of a pass to the rows that they belong to."""

    def add(own: Tensor) -> Tensor:
        values = own.reshape(-1, total.shape[1])[real.to(own.device)]
        total.index_add_(0, at, values.to("cpu", torch.float64))
        return own

    return add


def _empty_store(
    model: LanguageModel, pairs: Sequence[EncodedPair], places: Sequence[Place], packing: Packing, keep: Keep
) -> RecordedDonors:
    tokens, lengths = _sizes(pairs, packing)
    total, squares = int(tokens.sum()), int((lengths**2).sum())
    like = torch.empty(0, dtype=model.dtype, device=model.device)
    values = {p: keep(like, (total, p.units * p.width)) for p in places if p.tap != "pattern"}
    patterns = {p: keep(like, (squares, p.units)) for p in places if p.tap == "pattern"}
    return RecordedDonors(values, patterns, lengths, torch.cumsum(tokens, 0) - tokens)


def _sizes(pairs: Sequence[EncodedPair], packing: Packing) -> tuple[Int[Tensor, "prompt"], Int[Tensor, "prompt"]]:
    """Donor tokens of each pair, and of its prompt alone."""
    tokens = torch.tensor([donor_tokens(pair, packing.patch_answers) for pair in pairs])
    return tokens, torch.tensor([len(pair.donor or pair.prompt) for pair in pairs])


def recorded_bytes(pairs: Sequence[EncodedPair], places: Sequence[Place], packing: Packing, dtype: torch.dtype) -> int:
    """What ``record`` would keep of these pairs."""
    tokens, lengths = _sizes(pairs, packing)
    total, squares = int(tokens.sum()), int((lengths**2).sum())
    return dtype.itemsize * sum(squares * p.units if p.tap == "pattern" else total * p.units * p.width for p in places)


@contextmanager
def perturbed(model: LanguageModel, layout: Layout, perturb: Perturb | None) -> Iterator[None]:
    """Token embeddings as ``perturb`` makes them; as before afterwards."""
    if perturb is None:
        yield
        return

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return perturb(layout, output)

    handle = model.module.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _recorder(store: RecordedDonors, place: Place, layout: Layout) -> Edit:
    def keep(own: Tensor) -> Tensor:
        if place.tap == "pattern":
            _keep_pattern(store, place, layout, own)
        else:
            flat = layout.source.flatten()
            real = torch.nonzero(flat >= 0).flatten()
            values = store.values[place]
            rows = own.reshape(flat.numel(), -1)[real.to(own.device)]
            values[flat[real].to(values.device)] = rows.to(values.device)
        return own

    return keep


def _keep_pattern(store: RecordedDonors, place: Place, layout: Layout, own: Tensor) -> None:
    entry = store.entries(layout).to(own.device)
    row, query, key = torch.nonzero(entry >= 0, as_tuple=True)
    patterns = store.patterns[place]
    patterns[entry[row, query, key].to(patterns.device)] = own[row, :, query, key].to(patterns.device)
