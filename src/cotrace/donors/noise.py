"""Noise: the donor source that perturbs token embeddings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing
from cotrace.batches.packing import donor_offsets
from cotrace.donors.recorded import Perturb, RecordedDonors
from cotrace.donors.sources import Alone, Setting
from cotrace.errors import InputError
from cotrace.models import LanguageModel

SAMPLED = 64
"""Rows of the embedding table by which its scaling is measured."""


@dataclass(frozen=True, kw_only=True)
class Noise(Alone):
    """The base prompt's run with Gaussian noise on token embeddings, fixed for each pair by its id and the seed.

    Source: Meng et al., Locating and Editing Factual Associations in GPT, 2022 (noise on the subject); Yan et al. 2026
    (noise on the whole prompt, std 0.6045). ``std`` is absolute; ``multiple`` is in units of the embeddings' own std.
    ``draws`` averages the effects, not the activations, of several draws.
    """

    std: float | int | None = None
    multiple: float | int | None = None
    role: str = "all"
    """Position role that is perturbed: ``all`` prompt tokens, ``subject``, or another span."""
    seed: int = 0
    draws: int = 1
    tensors: Mapping[str, Tensor] | None = None
    """The noise itself: one [position, d_model] tensor for each pair, by id."""

    name = "noise"
    paired = False
    patterns = True

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.std, self.multiple, self.tensors)) != 1:
            raise InputError(
                "noise needs one of std=, multiple= and tensors=: say how much, as in noise=0.6 or noise=3x"
            )
        if (self.std or self.multiple or 0) < 0 or self.draws < 1:
            raise InputError(f"noise: std, multiple and draws must be positive; got {self}")

    def donors(self, setting: Setting, pairs: Sequence[EncodedPair]) -> RecordedDonors:
        return setting.record(pairs, self.perturb(setting.model, pairs, setting.packing))

    def perturb(self, model: LanguageModel, pairs: Sequence[EncodedPair], packing: Packing) -> Perturb:
        """Return the noise on the embeddings of these pairs' donor runs, tokens counted as ``donor_layouts`` does.

        Args:
            model: The model.
            pairs: The pairs, as tokens.
            packing: How pairs share rows.
        """
        std = self.std if self.std is not None else (self.multiple or 0) * embedding_std(model)
        for pair in pairs if self.tensors is not None else ():
            self._noise(pair, model, std)  # what was given is looked at before the first pass
        starts = torch.tensor(donor_offsets(pairs, packing))

        def added(layout: Layout) -> Tensor:
            """The noise of a pass, made for it and not kept."""
            own = [self._noise(pairs[example], model, std) for example in layout.examples]
            token = layout.source - starts[torch.tensor(layout.examples)][layout.example.clamp(min=0)]
            table = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
            noised = (layout.source >= 0) & (token < table.shape[1])  # answers are not perturbed
            rows = table[layout.example.clamp(min=0), token.clamp(0, table.shape[1] - 1)]
            return rows * noised[..., None]

        return _adding(added)

    def prefix(self, pair: EncodedPair) -> int:
        noised = pair.roles.get(self.role, (0,)) if self.tensors is None else (0,)
        return min(*noised, len(pair.prompt) - 1) if self.role != "all" else 0

    def each_draw(self) -> list[Noise]:
        """One source of a single draw for each of its draws; the first has the seed itself."""
        seeds = [self.seed, *(_child_seed(self.seed, number) for number in range(1, self.draws))]
        return [replace(self, draws=1, seed=seed) for seed in seeds]

    def _noise(self, pair: EncodedPair, model: LanguageModel, std: float) -> Tensor:
        weight = model.module.get_input_embeddings().weight
        shape = (len(pair.prompt), weight.shape[1])
        if self.tensors is not None:
            return _given(self.tensors, pair, shape).to(weight.dtype)
        generator = np.random.default_rng([self.seed, zlib.crc32(pair.pair.id.encode())])
        noise = torch.from_numpy(generator.standard_normal(shape) * std)
        where = torch.zeros(shape[0], 1, dtype=noise.dtype)
        where[list(pair.roles[self.role]) if self.role in pair.roles else slice(None)] = 1
        return (noise * where).to(weight.dtype)


@torch.no_grad()
def embedding_std(model: LanguageModel) -> float:
    """Standard deviation of token embeddings as they enter the first layer; some families scale the table's rows."""
    embedding = model.module.get_input_embeddings()
    weight = embedding.weight
    some = torch.linspace(0, len(weight) - 1, min(SAMPLED, len(weight)), device=model.device).long()
    rows, found = weight[some.to(weight.device)].float(), embedding(some).float()
    return float(weight.float().std().item() * found.norm().item() / rows.norm().item())


def _given(tensors: Mapping[str, Tensor], pair: EncodedPair, shape: tuple[int, int]) -> Tensor:
    if pair.pair.id not in tensors:
        raise InputError(f"pair {pair.pair.id}: no noise tensor of that id is given")
    noise = tensors[pair.pair.id]
    if tuple(noise.shape) != shape:
        raise InputError(f"pair {pair.pair.id}: its noise has shape {list(noise.shape)}, not {list(shape)}")
    return noise


def _child_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _adding(noise: Callable[[Layout], Tensor]) -> Perturb:
    """Adds a layout's noise to its token embeddings."""

    def perturb(layout: Layout, embeddings: Tensor) -> Tensor:
        return embeddings + noise(layout).to(embeddings.device)

    return perturb
