"""The properties that make a patch right, each measured on short runs of the model itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cotrace.batches import FrequencyLimit
from cotrace.components import Site
from cotrace.interventions import PatternPatch, PlainPatch, ValuePatch
from cotrace.models import Place
from cotrace.models.added import EXACT
from cotrace.models.taps import Edit
from cotrace.models.watch import REFUSALS
from cotrace.problem.packing import frequency_limit, named_lengths
from cotrace.selfcheck.probe import PROMPT_TOKENS, Probe, deviation
from cotrace.selfcheck.report import Finding

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
        donors = _values(probe, {place: place for place in places}, probe.donor, places[0].tap == "pattern")
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
        yield Finding(WHOLE_STREAM, deviation(logits[1], _donor(probe)), tolerance)


def _donor(probe: Probe) -> Tensor:
    return probe.itself(probe.donor)


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
    """By how much backpropagation misses the difference of two runs, relative to it; None where it drowns in rounding.

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
    taps = []
    for place, donor in donors.items():
        mask = z.to(probe.model.device, probe.model.compute_dtype).expand(1, place.units)
        taps.append((place, _patch(place, donor).edit(mask)))
    return probe.run([probe.base], taps, eager=next(iter(donors)).tap == "pattern")


def _swapped(probe: Probe, donors: Mapping[Place, Tensor]) -> tuple[Tensor, dict[Place, float]]:
    """Logits under mask 0 and mask 1 at these places, and by how much the values after the patch miss the donor's."""
    places = list(donors)
    eager = places[0].tap == "pattern"
    expected = _values(probe, {place: _reader(place) for place in places}, probe.donor, eager)
    after: dict[Place, Tensor] = {}
    taps = []
    for place in places:
        z = torch.stack([torch.zeros(place.units), torch.ones(place.units)])
        taps.append((place, _patch(place, donors[place]).edit(z.to(probe.model.device, probe.model.compute_dtype))))
        taps.append((_reader(place), _keep(after, place)))
    with torch.no_grad():
        logits = probe.run([probe.base], taps, copies=2, eager=eager)
    return logits, {place: deviation(after[place].chunk(2)[1], expected[place]) for place in places}


def _patch(place: Place, donor: Tensor) -> PlainPatch:
    """The engine's patch that puts another run's values at every token of the place."""
    if place.tap == "pattern":
        return PatternPatch(place, donor, torch.ones_like(donor[:, :1]))
    values = donor.reshape(-1, place.units * place.width)
    return ValuePatch(place, torch.arange(len(values)), values)


def _values(probe: Probe, places: Mapping[Place, Place], prompt: tuple[int, ...], eager: bool) -> dict[Place, Tensor]:
    """What stands at these places (given by where they are read) in an unpatched run."""
    seen: dict[Place, Tensor] = {}
    with torch.no_grad():
        probe.run([prompt], [(reader, _keep(seen, place)) for place, reader in places.items()], eager=eager)
    return seen


def _reader(place: Place) -> Place:
    """Where the effect of a patch is read: experts together are all of their module's output."""
    return replace(place, tap="output") if place.tap == "experts" else place


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
        limit = frequency_limit(model, 2 * length)
        if limit is not None:
            yield Finding(LENGTHS, None, tolerance, note=_said(limit))


@torch.no_grad()
def _beside_longer(probe: Probe, length: int, tolerance: float) -> Iterator[Finding]:
    whole = (probe.longer * (length // len(probe.longer) + 2))[: length + 2]
    rows = [probe.base, whole[:-4], whole[:-2], whole[:-1], whole]
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
