"""Additions to the stream: ``attention_output`` and ``mlp_output`` are put where a layer adds them to its residual
stream.

No module is believed by its name. In one short run every such output is replaced by random numbers; then the stream
that leaves the layer must be the one before it plus those very numbers times a constant (DESIGN section 11). Where it
is not, the next module that takes the output as it is (a post-norm, a layer scale) is tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotrace.components import Site
from cotrace.errors import NonFiniteError
from cotrace.models.hooks import PROBE_ROWS, PROBE_TOKENS, Trace, hooked, probe_ids, varies
from cotrace.models.places import Layer, Place

ADDED = (Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT)
SAME_TENSOR = {Site.MLP_OUTPUT: (Site.MLP_OUTPUT, Site.MLP_COORDINATE)}
BYPASSED = "later parts read more than the last layer's output"
NOT_ADDED = "nowhere in the layer is it found added to the residual stream as it is"
EXACT = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Root mean square by which a sum may be missed, relative to it, by the type that it is computed in."""
FAINT = 1e-3
"""Share of a sum below which a term, or the difference of a factor from 1, is none."""
TOKENS = PROBE_ROWS * PROBE_TOKENS


@dataclass(frozen=True)
class Sum:
    """How a part's numbers were found in the stream."""

    factor: float
    """Factor by which the layer multiplies the part."""
    error: float
    """Relative error of the stream against the one before plus the parts."""


def where_added(model: PreTrainedModel, layers: Sequence[Layer], trace: Trace) -> tuple[Layer, ...]:
    """The layers with these outputs where they are added; without those that are never added as they are."""
    chains = {(layer.index, site): _chain(layer, place, trace) for layer, site, place in _parts(layers)}
    found: dict[tuple[int, Site], tuple[Place, float] | None] = {}
    bypassed: bool | None = None
    while (open_ := {key: chain[0] for key, chain in chains.items() if key not in found}) or bypassed is None:
        tried = {**{key: known[0] for key, known in found.items() if known}, **open_}
        sums, bypassed = sums_of(model, layers, tried, trace)
        for key, place in open_.items():
            if key in sums:
                found[key] = replace(place, factor=sums[key].factor), sums[key].error
            elif chains[key][1:]:
                chains[key] = chains[key][1:]
            else:
                found[key] = None
    placed = [_with(layer, found) for layer in layers]
    return tuple(map(_without_residual, placed) if bypassed else placed)


def _without_residual(layer: Layer) -> Layer:
    places = dict(layer.places)
    gone = {Site.RESIDUAL: BYPASSED} if places.pop(Site.RESIDUAL, None) else {}
    return replace(layer, places=places, missing={**layer.missing, **gone})


def _parts(layers: Sequence[Layer]) -> Iterator[tuple[Layer, Site, Place]]:
    for layer in layers:
        for site in ADDED:
            if (place := layer.place(site)) is not None:
                yield layer, site, place


def _chain(layer: Layer, place: Place, trace: Trace) -> list[Place]:
    """The place, and behind it the modules that each take the last one's output as it is, up to another part."""
    starts = [place.module, *([layer.attention] if place.site is Site.ATTENTION_OUTPUT and layer.attention else [])]
    parts = {part for _, site, other in _parts([layer]) if site is not place.site for part in other.module.modules()}
    return [
        replace(place, module=m, width=trace.width(m) or 0)
        for start in starts
        for m in _takers(layer, start, parts, trace)
    ]


def _takers(layer: Layer, start: nn.Module, stop: set[nn.Module], trace: Trace) -> Iterator[nn.Module]:
    """The module, the one that takes its output, the one that takes that one's, and so on."""
    last = start
    yield last
    for module in sorted((m for m in layer.module.modules() if trace.once(m)), key=lambda m: trace.order.get(m, 0)):
        if (
            module in trace.left
            and trace.order[module] > trace.order[last]
            and _equal(trace.entered[module], trace.left[last])
        ):
            if not stop.isdisjoint(module.modules()):
                return
            last = module
            yield last


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and bool((a.reshape(-1) == b.reshape(-1).to(a.device)).all())


def _with(layer: Layer, found: Mapping[tuple[int, Site], tuple[Place, float] | None]) -> Layer:
    places, missing, errors = dict(layer.places), dict(layer.missing), {}
    for _, site, _ in _parts([layer]):
        known = found[layer.index, site]
        for same in SAME_TENSOR.get(site, (site,)):
            own = places.pop(same)
            if known is None:
                missing[same] = NOT_ADDED
            else:
                place, errors[same] = known
                width = own.width if same.has_units else place.width
                places[same] = replace(own, module=place.module, width=width, factor=place.factor)
    places = {site: places[site] for site in Site if site in places}
    return replace(layer, places=places, missing=missing, added=errors)


@torch.no_grad()
def sums_of(
    model: PreTrainedModel, layers: Sequence[Layer], places: Mapping[tuple[int, Site], Place], trace: Trace
) -> tuple[dict[tuple[int, Site], Sum], bool]:
    """How each part is found in the stream when all of them are random numbers; those not found are left out.

    The last layer's output is then set to zero: the second value is whether the logits still tell tokens apart.
    """
    seen = {layer.index: _Seen(layer.module, _size(trace.entered.get(layer.module))) for layer in layers}
    noise = torch.Generator().manual_seed(0)
    plain = [(replace(place, factor=1.0), seen[index].fill(site, noise)) for (index, site), place in places.items()]
    last = layers[-1].place(Site.RESIDUAL)
    with ExitStack() as stack:
        stack.enter_context(hooked(model, plain))
        for layer in seen.values():
            layer.watch(stack)
        stack.enter_context(hooked(model, [(last, torch.zeros_like)] if last else []))
        logits = model(input_ids=probe_ids(model), use_cache=False).logits
    sums = {(index, site): found for index, layer in seen.items() for site, found in layer.sums().items()}
    return sums, last is not None and varies(logits)


def _size(stream: Tensor | None) -> float:
    """Root mean square of the stream that enters a layer."""
    return 1.0 if stream is None else float(stream.float().square().mean().sqrt())


@dataclass(eq=False)
class _Seen:
    """Every tensor that passed a module of one layer, in order, and the numbers that its parts were replaced with."""

    layer: nn.Module
    size: float
    """Size of the random numbers: the stream's, so that they stand out of its rounding."""
    parts: dict[Site, Tensor] = field(default_factory=dict)
    running: bool = False
    """Whether the layer is at work: some of its modules may be other layers' too."""
    tensors: list[tuple[nn.Module, bool, Tensor]] = field(default_factory=list)
    """Module, whether it gave the tensor or took it, and the tensor [token, feature]."""

    def fill(self, site: Site, noise: torch.Generator) -> Any:
        """An edit that puts random numbers of another size at each token, so that no norm passes for a factor."""

        def edit(own: Tensor) -> Tensor:
            sizes = self.size * torch.linspace(0.5, 3.0, TOKENS)[:, None]
            value = (torch.randn(TOKENS, own.numel() // TOKENS, generator=noise) * sizes).to(own)
            self.parts[site] = _by_token(value)
            return value.reshape(own.shape)

        return edit

    def watch(self, stack: ExitStack) -> None:
        """Note what goes in and out of every module of the layer."""

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            self.running = self.running or module is self.layer
            self._note(module, False, (*args, *kwargs.values()))

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._note(module, True, output if isinstance(output, tuple | list) else (output,))
            self.running = self.running and module is not self.layer

        for module in self.layer.modules():
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)

    def _note(self, module: nn.Module, gave: bool, values: Sequence[Any]) -> None:
        for value in values:
            fits = isinstance(value, Tensor) and value.is_floating_point() and value.numel() % TOKENS == 0
            if self.running and fits:
                self.tensors.append((module, gave, _by_token(value)))

    def sums(self) -> dict[Site, Sum]:
        """The parts that are in the stream which leaves the layer."""
        width = self.tensors[0][2].shape if self.tensors else None
        parts = {site: part for site, part in self.parts.items() if part.shape == width}
        return _Explained(parts).follow([entry for entry in self.tensors if entry[2].shape == width]) if parts else {}


@dataclass(frozen=True, eq=False)
class _Stream:
    """A tensor without the random parts, how much of each part is in it, and which have been added up to it."""

    rest: Tensor
    shares: Tensor
    added: Mapping[Site, Sum] = field(default_factory=dict)


class _Explained:
    """A layer's tensors explained one after another: a stream before, plus parts, plus at most one other output."""

    def __init__(self, parts: Mapping[Site, Tensor]) -> None:
        self.sites = list(parts)
        self.exact = max(EXACT[part.dtype] for part in parts.values())
        self.parts = torch.stack([part.double().flatten() for part in parts.values()], 1)
        self.basis, self.triangle = torch.linalg.qr(self.parts)
        self.streams: list[_Stream] = []
        self.others: list[_Stream] = []
        self.known: dict[bytes, _Stream | None] = {}
        """Numbers -> the stream that they are; None for another output."""

    def follow(self, tensors: Sequence[tuple[nn.Module, bool, Tensor]]) -> dict[Site, Sum]:
        """The parts in the last tensor, which leaves the layer; the first one, which enters it, is the stream."""
        taken: dict[nn.Module, _Stream] = {}
        last: _Stream | None = None
        for module, gave, tensor in tensors:
            numbers = tensor.double().flatten()
            key = numbers.numpy().tobytes()
            if key not in self.known:
                plain = self._split(numbers, size := _finite(numbers))
                if plain is None:
                    continue
                last = self._sum(plain, size) if self.streams else plain
                if last is None and gave and module in taken and _only_norms(module):
                    last = replace(plain, added=taken[module].added)  # a stream that is normed as a whole
                self._keep(key, plain, last, gave)
            elif (last := self.known[key]) is not None:
                self.streams.remove(last)
                self.streams.append(last)  # the latest
            if last is not None:
                taken[module] = last
        return {} if last is None else dict(last.added)

    def _keep(self, key: bytes, plain: _Stream, stream: _Stream | None, gave: bool) -> None:
        """Note a tensor that is a stream, or that some module gave."""
        if stream is not None:
            self.streams.append(stream)
        elif gave:
            self.others.append(plain)
        if stream is not None or gave:
            self.known[key] = stream

    def _split(self, numbers: Tensor, size: float) -> _Stream | None:
        """Return the rest of a tensor without the parts, and the share of each part in it; None for a part itself."""
        along = self.basis.T @ numbers
        shares = torch.linalg.solve_triangular(self.triangle, along[:, None], upper=True)[:, 0]
        rest = numbers - self.basis @ along
        return None if rest.norm() <= self.exact * size else _Stream(rest, shares)

    def _sum(self, plain: _Stream, size: float) -> _Stream | None:
        """The tensor as a stream before and the fewest additions; None where it is no such sum."""
        for other in (None, *self.others):
            if found := list(self._of(plain, other, size)):
                return min(found, key=lambda pair: pair[0])[1]
        return None

    def _of(self, plain: _Stream, other: _Stream | None, size: float) -> Iterator[tuple[int, _Stream]]:
        """The tensor as each stream, the latest first, plus parts, and plus the other; with how many parts are new."""
        streams = self.streams[::-1]
        rests = torch.stack([stream.rest for stream in streams])
        weights = _fitted(rests, None if other is None else other.rest, plain.rest)
        fits = weights[:, :1] * rests
        shares = plain.shares - weights[:, :1] * torch.stack([stream.shares for stream in streams])
        if other is not None:
            fits, shares = fits + weights[:, 1:] * other.rest, shares - weights[:, 1:] * other.shares
        errors = ((plain.rest - fits).norm(dim=1) / size).tolist()
        sizes = (weights[:, 0].abs() * rests.norm(dim=1)).tolist()
        for i, (before, error) in enumerate(zip(streams, errors, strict=True)):
            if error <= self.exact and sizes[i] > FAINT * size:
                new = dict(self._visible(shares[i], float(weights[i, 0]), error, size))
                # With another output in the same sum, the MLP is not all that is added: there is a second one beside.
                kept = {site: found for site, found in new.items() if other is None or site is not Site.MLP_OUTPUT}
                yield len(new), replace(plain, added={**before.added, **kept})

    def _visible(self, shares: Tensor, kept: float, error: float, size: float) -> Iterator[tuple[Site, Sum]]:
        for site, share, part in zip(self.sites, shares.tolist(), self.parts.T, strict=True):
            if abs(share) * float(part.norm()) > max(10 * error, FAINT) * size:
                plain = abs(share - 1) <= FAINT or abs(share - kept) <= FAINT  # in the latter case all is rescaled
                yield site, Sum(1.0 if plain else share, error)


def _finite(numbers: Tensor) -> float:
    """The numbers' norm. Raises NonFiniteError."""
    size = float(numbers.norm())
    if not math.isfinite(size):
        raise NonFiniteError(
            "the model's activations are not finite on a few plain tokens: its weights are damaged, or too large for "
            "this number type; load it with dtype='float32', or get it again"
        )
    return size


def _fitted(ones: Tensor, other: Tensor | None, whole: Tensor) -> Tensor:
    """The weights of each one, and of the other, in the sum nearest to the whole by least squares: [one, term]."""
    if other is None:
        return (ones @ whole / ones.square().sum(1))[:, None]
    terms = torch.stack([ones, other.expand_as(ones)], 2)
    weights: Tensor = torch.linalg.lstsq(terms, whole.expand_as(ones)[..., None]).solution[..., 0]
    return weights


def _only_norms(module: nn.Module) -> bool:
    """Whether the module has no parts and no matrix: a norm, a scale, a dropout."""
    return not list(module.children()) and all(p.ndim < 2 for p in module.parameters())


def _by_token(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).reshape(TOKENS, -1)
