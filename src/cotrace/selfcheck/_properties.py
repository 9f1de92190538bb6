"""The properties that are checked, on probe prompts, with the precision that each may ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cotrace.batches import EncodedPair, FrequencyLimit, Layout, Packing, answer_layouts
from cotrace.components import Site
from cotrace.interventions import PatternPatch, PlainPatch, ValuePatch
from cotrace.interventions.forward import forward
from cotrace.models import LanguageModel, Place
from cotrace.models.additions import EXACT
from cotrace.models.attention_interface import fresh_frequencies
from cotrace.models.hooks import REFUSALS, Edit, Edits
from cotrace.models.language_model import evaluating
from cotrace.problem.passes import Trials, named_lengths
from cotrace.prompts import PromptPair
from cotrace.selfcheck.finding import Finding

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
        self, prompts: Sequence[Prompt], edits: Edits = (), copies: int = 1, eager: bool = False
    ) -> Float[Tensor, "copy token vocab"]:
        """Logits of every token by the engine, prompt after prompt."""
        found: dict[int, Tensor] = {}
        for layout in every_token(prompts, self.frequencies(prompts)):
            logits = forward(self.model, layout, edits, copies=copies, eager=eager)
            by_prompt = logits[:, _by_prompt(layout).to(logits.device)]
            lengths = [len(prompts[example]) for example in layout.examples]
            found |= dict(zip(layout.examples, torch.split(by_prompt, lengths, 1), strict=True))
        return torch.cat([found[example] for example in sorted(found)], 1)

    def frequencies(self, prompts: Sequence[Prompt]) -> FrequencyLimit | None:
        """Return the lengths of rows that change each other's RoPE."""
        return self.model.once(Trials).frequency_limit(max(map(len, prompts))) if len(prompts) > 1 else None


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


TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Two runs that should be equal may differ by this, relative to the largest logit. Several families compute norms and
rotations in float32 whatever the model's type, and batched matrix products round as they like."""
FAINTEST = 1e-9
"""A full swap that moves the logits by less than this does nothing."""


FIRES, NOOP, LANDS = "every hook fires", "mask 0 changes nothing", "mask 1 puts the donor's value"
ADDS = "the stream behind a layer is the one before it plus the parts"
MOVES, WHOLE_STREAM = "mask 1 moves the logits", "the whole residual stream is the donor run"
GRADIENT = "the gradient is that of the effect"
NEIGHBOURS = ((0.5, 0.02), (0.5, 0.005), (0.25, 0.005), (0.75, 0.005), (0.1, 0.002), (0.9, 0.002))
"""Soft masks, and half the distance of the two whose difference the gradient must predict. One that agrees is enough:
where an expert or an index is chosen anew between the two the model itself jumps, and a gradient that is cut agrees
nowhere."""
GRADIENT_TOLERANCE = 0.02


def site_findings(probe: Probe, site: Site, places: Sequence[Place], tolerance: float) -> Iterator[Finding]:
    """Everything fires, mask 0 is a no-op, mask 1 lands and matters: one run with both masks side by side."""
    try:
        donors = _values(probe, {place: place for place in places}, probe.donor, places[0].side == "pattern")
        logits, landed = _swapped(probe, donors)
    except RuntimeError as error:
        yield Finding(FIRES, None, tolerance, where=str(site), note=str(error), broken=True)
        return
    worst = max(landed, key=lambda place: landed[place])
    moved = deviation(logits[1], logits[0])
    yield Finding(FIRES, 0.0, 0.0, where=str(site))
    yield Finding(NOOP, deviation(logits[0], probe.plain), tolerance, where=str(site))
    yield Finding(LANDS, landed[worst], tolerance, where=str(worst))
    yield Finding(MOVES, None, 0.0, where=str(site), note=f"by {moved:.2g}", broken=not moved > FAINTEST)
    yield _gradient_finding(probe, donors, site)
    there = {place.layer for place in places}
    sums = {at.index: at.added[site] for at in probe.model.layers if site in at.added and at.index in there}
    if sums:
        layer = max(sums, key=sums.__getitem__)
        yield Finding(ADDS, sums[layer], EXACT.get(probe.model.rounding_dtype, 1e-2), where=f"L{layer} {site}")
    if site is Site.RESIDUAL and len(probe.model.layers) - 1 in there:
        yield Finding(WHOLE_STREAM, deviation(logits[1], probe.itself(probe.donor)), tolerance)


def _gradient_finding(probe: Probe, donors: Mapping[Place, Tensor], site: Site) -> Finding:
    """The slope of the logits along all components of the site: by backpropagation, and by two runs side by side."""
    if probe.model.rounding_dtype in (torch.bfloat16, torch.float16):
        return Finding(GRADIENT, None, 0.0, where=str(site), note="not measured in half precision")
    best: float | None = None
    for at, step in NEIGHBOURS:
        off = _slope_error(probe, donors, at, step)
        best = off if best is None or (off is not None and off < best) else best
        if best is not None and best <= GRADIENT_TOLERANCE:
            break
    if best is None:
        return Finding(GRADIENT, None, 0.0, where=str(site), note="too faint to be measured")
    return Finding(GRADIENT, best, GRADIENT_TOLERANCE, where=str(site), estimate=True)


def _slope_error(probe: Probe, donors: Mapping[Place, Tensor], at: float, step: float) -> float | None:
    """Return the relative error of backpropagation against the difference of two runs; None where it drowns in
    rounding.

    It is asked for the slope of the very combination of logits that the two runs say moves, which must be 1.
    """
    with torch.no_grad():
        low, high = (_blended(probe, donors, torch.tensor(at + side)).double() for side in (-step, step))
    moves = (high - low) / (2 * step)
    noise = torch.finfo(probe.model.dtype).eps * float(high.norm()) / (2 * step)
    if float(moves.norm()) < noise / GRADIENT_TOLERANCE:
        return None
    z = torch.tensor(at, requires_grad=True)
    with torch.enable_grad():
        along = (_blended(probe, donors, z).double() * moves / moves.norm() ** 2).sum()
    (slope,) = torch.autograd.grad(along, z, allow_unused=True) if along.requires_grad else (None,)
    return 1.0 if slope is None else abs(float(slope) - 1)


def _blended(probe: Probe, donors: Mapping[Place, Tensor], z: Tensor) -> Tensor:
    """Logits with one soft mask for all components."""
    edits = []
    for place, donor in donors.items():
        mask = z.to(probe.model.device, probe.model.compute_dtype).expand(1, place.units)
        edits.append((place, _patch(place, donor).edit(mask)))
    return probe.run([probe.base], edits, eager=next(iter(donors)).side == "pattern")


def _swapped(probe: Probe, donors: Mapping[Place, Tensor]) -> tuple[Tensor, dict[Place, float]]:
    """Logits under mask 0 and mask 1 at these places, and by how much the values after the patch miss the donor's."""
    places = list(donors)
    eager = places[0].side == "pattern"
    expected = _values(probe, {place: _reader(place) for place in places}, probe.donor, eager)
    after: dict[Place, Tensor] = {}
    edits = []
    for place in places:
        z = torch.stack([torch.zeros(place.units), torch.ones(place.units)])
        edits.append((place, _patch(place, donors[place]).edit(z.to(probe.model.device, probe.model.compute_dtype))))
        edits.append((_reader(place), _keep(after, place)))
    with torch.no_grad():
        logits = probe.run([probe.base], edits, copies=2, eager=eager)
    return logits, {place: deviation(after[place].chunk(2)[1], expected[place]) for place in places}


def _patch(place: Place, donor: Tensor) -> PlainPatch:
    """The engine's patch that puts another run's values at every token of the place."""
    if place.side == "pattern":
        return PatternPatch(place, donor, torch.ones_like(donor[:, :1]))
    values = donor.reshape(-1, place.units * place.width)
    return ValuePatch(place, torch.arange(len(values)), values)


def _values(probe: Probe, places: Mapping[Place, Place], prompt: tuple[int, ...], eager: bool) -> dict[Place, Tensor]:
    """Return the values at these places (given by where they are read) in an unpatched run."""
    seen: dict[Place, Tensor] = {}
    with torch.no_grad():
        probe.run([prompt], [(reader, _keep(seen, place)) for place, reader in places.items()], eager=eager)
    return seen


def _reader(place: Place) -> Place:
    """Where the effect of a patch is read: experts together are all of their module's output."""
    return replace(place, side="output") if place.side == "experts" else place


def _keep(seen: dict[Place, Tensor], place: Place) -> Edit:
    def keep(own: Tensor) -> Tensor:
        seen[place] = own.detach().clone()
        return own

    return keep


COMPANY, FUTURE = "padding and batch company change nothing", "no token sees a later one"
LENGTHS = "a longer row changes nothing, about the lengths that the model names"
MOST_COMPANY = 1024
"""Longer rows are not run for a check."""


def run_findings(probe: Probe, tolerance: float) -> Iterator[Finding]:
    """Padding, batch company, later tokens: none of them changes a token's logits."""
    try:
        with torch.no_grad():
            logits = probe.run([probe.base, probe.longer, probe.donor])[0]
    except REFUSALS as error:
        yield Finding(COMPANY, None, tolerance, note=f"the batch does not run: {error}", broken=True)
        return
    yield Finding(COMPANY, deviation(logits[:PROMPT_TOKENS], probe.plain), tolerance)
    yield from _length_findings(probe, tolerance)
    other = probe.itself((*probe.base[:-1], probe.donor[-1]))
    leak = deviation(other[:-1], probe.plain[:-1])
    note = "" if leak <= tolerance else "earlier logits depend on later tokens; load the model as a causal decoder"
    yield Finding(FUTURE, leak, tolerance, note=note)


def _length_findings(probe: Probe, tolerance: float) -> Iterator[Finding]:
    """Rows on either side of each length at which frequencies may change: alone, together, and alone once more."""
    model = probe.model
    if model.most_tokens is not None:
        return
    lengths = sorted(named_lengths(model))
    short = [length for length in lengths if length <= MOST_COMPANY]
    for length in short:
        yield from _beside_longer(probe, length, tolerance)
    far = lengths[-1:] if lengths and not short else []
    for length in far:
        limit = model.once(Trials).frequency_limit(2 * length)
        if limit is not None:
            yield Finding(LENGTHS, None, tolerance, note=_said(limit))


@torch.no_grad()
def _beside_longer(probe: Probe, length: int, tolerance: float) -> Iterator[Finding]:
    long = (probe.longer * (length // len(probe.longer) + 2))[: length + 2]
    rows = [probe.base, long[:-4], long[:-2], long[:-1], long]
    rows = [row for row in rows if len(row) >= 2]
    try:
        alone = torch.cat([probe.itself(row) for row in rows])
        together = probe.run(rows)[0]
        again = probe.itself(probe.base)
    except REFUSALS as error:
        yield Finding(LENGTHS, None, tolerance, note=f"rows of {length + 2} tokens do not run: {error}")
        return
    limit = probe.frequencies(rows)
    where, moved = f"{length} tokens", deviation(together, alone)
    note = "" if limit is None else _said(limit)
    if moved > tolerance:
        note = f"the score of a row depends on the rows beside it: use one length, or rows below {length} tokens"
    yield Finding(LENGTHS, moved, tolerance, where=where, note=note)
    kept = deviation(again, probe.plain)
    if kept > tolerance:
        note = "scores depend on the rows that were run before; load the model with RoPE of a fixed length"
        yield Finding(LENGTHS, kept, tolerance, where=where, note=note)


def _said(limit: FrequencyLimit) -> str:
    apart = "rows on either side" if limit.stepped else "longer rows of different lengths"
    return f"RoPE changes above {limit.after} tokens: {apart} never share a pass"


HALF = (torch.bfloat16, torch.float16)
ALLOWED = {torch.bfloat16: 0.2, torch.float16: 0.1}
"""Relative to the largest logit: what rounding alone does to deep models; above it the numbers are not the model's."""
MOST_BYTES = 2**33
NAME = "half precision against float32"


def precision_findings(probe: Probe) -> Iterator[Finding]:
    """The float32 spot check of a bf16 or fp16 model; nothing for other types."""
    model = probe.model
    if model.dtype not in HALF:
        return
    parameters = list(model.module.parameters())
    if any(parameter.is_meta for parameter in parameters):
        yield Finding(NAME, None, 0.0, note="parts of the model are offloaded")
    elif sum(4 * parameter.numel() for parameter in parameters) > MOST_BYTES:
        yield Finding(NAME, None, 0.0, note="the model in float32 would take more than 8 GiB")
    else:
        half = probe.plain
        with in_float32(model.module):
            full = probe.itself(probe.base)
        yield Finding(NAME, deviation(half, full), ALLOWED[model.dtype])


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """The module's half-precision parameters and buffers in float32; the very same tensors are back afterwards."""
    held = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.dtype in HALF]
    before = [tensor.data for tensor in held]
    try:
        for tensor in held:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(held, before, strict=True):
            tensor.data = data
