"""The short runs that a self-check compares: random prompts, laid out as the engine lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import EncodedPair, FrequencyLimit, Layout, Packing, answer_layouts
from cotrace.interventions.forward import forward
from cotrace.models import LanguageModel
from cotrace.models.internals import fresh_frequencies
from cotrace.models.language_model import evaluating
from cotrace.models.taps import TapList
from cotrace.problem.packing import frequency_limit
from cotrace.prompts import PromptPair

PROMPT_TOKENS, LONG_TOKENS = 6, 9
PLAIN = Packing(packed=False, batch_tokens=10**6)
Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Probe:
    """A model, two prompts of one length and a longer one; ids are random, special tokens left out."""

    model: LanguageModel
    base: Prompt
    donor: Prompt
    longer: Prompt

    @classmethod
    def of(cls, model: LanguageModel, seed: int = 0) -> Probe:
        vocabulary = model.module.get_input_embeddings().weight.shape[0]
        usable = [i for i in range(vocabulary) if i not in _special(model)] if vocabulary < 10**6 else range(vocabulary)
        drawn = np.random.default_rng(seed).choice(np.array(usable), 2 * PROMPT_TOKENS + LONG_TOKENS)
        base, donor, longer = np.split(drawn, [PROMPT_TOKENS, 2 * PROMPT_TOKENS])
        return cls(model, tuple(base.tolist()), tuple(donor.tolist()), tuple(longer.tolist()))

    @cached_property
    def plain(self) -> Float[Tensor, "pos vocab"]:
        """Logits of the base prompt by the model itself: no hook, no attention function of ours."""
        return self.itself(self.base)

    @torch.no_grad()
    def itself(self, prompt: Prompt) -> Float[Tensor, "pos vocab"]:
        """Logits of one prompt by the model itself."""
        with evaluating(self.model.module), fresh_frequencies(self.model.module):
            ids = torch.tensor([prompt], device=self.model.device)
            logits: Tensor = self.model.module(input_ids=ids, use_cache=False).logits[0]
        return logits

    def run(
        self, prompts: Sequence[Prompt], taps: TapList = (), copies: int = 1, eager: bool = False
    ) -> Float[Tensor, "copy token vocab"]:
        """Logits of every token by the engine, prompt after prompt."""
        found: dict[int, Tensor] = {}
        for layout in every_token(prompts, self.frequencies(prompts)):
            logits = forward(self.model, layout, taps, copies=copies, eager=eager)
            by_prompt = logits[:, _by_prompt(layout).to(logits.device)]
            lengths = [len(prompts[example]) for example in layout.examples]
            found |= dict(zip(layout.examples, torch.split(by_prompt, lengths, 1), strict=True))
        return torch.cat([found[example] for example in sorted(found)], 1)

    def frequencies(self, prompts: Sequence[Prompt]) -> FrequencyLimit | None:
        """Where rows as long as these change each other's RoPE."""
        return frequency_limit(self.model, max(map(len, prompts))) if len(prompts) > 1 else None


def every_token(prompts: Sequence[Prompt], frequencies: FrequencyLimit | None = None) -> list[Layout]:
    """One prompt to a row, padded on the right as the engine does, logits read at every token.

    To the engine the first token is the prompt and all others an answer, whose last token is never fed.
    """
    pair = PromptPair(id="probe", base="probe", answers=("probe",))
    pairs = [EncodedPair(pair, prompt[:1], ((*prompt[1:], 0),), (), (0,)) for prompt in prompts]
    return answer_layouts(pairs, range(len(pairs)), replace(PLAIN, frequencies=frequencies))


def _by_prompt(layout: Layout) -> Tensor:
    """Index of each token's logits, prompt after prompt; the engine sorts its rows by length."""
    return layout.scored_read[torch.argsort(layout.scored_cell, stable=True)]


def _special(model: LanguageModel) -> set[int]:
    """Token ids that the configuration gives a meaning: padding, start, end, images."""
    values = model.module.config.get_text_config().to_dict() | model.module.config.to_dict()
    named = (value for name, value in values.items() if name.endswith(("_token_id", "_token_index")))
    return {i for value in named for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}


def deviation(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value or 1; infinite where something is not finite."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
