"""Places are proven, not believed: what is said to be all of a part is set to zero, and nothing may be left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotrace.components import Site
from cotrace.errors import UnsupportedSite
from cotrace.models.internals import AttentionCall, attention_handler
from cotrace.models.places import Layer, Place
from cotrace.models.taps import attend, tapped
from cotrace.models.watch import REFUSALS, probe_ids

WHOLE = {Site.HEAD_OUTPUT: Site.ATTENTION_OUTPUT, Site.MLP_NEURON: Site.MLP_OUTPUT}
"""Site whose units together are all of another site -> that site."""
CLOSE = 1e-3
PARTIAL = "it is not all of what the layer adds"
HIDDEN = "its softmax weights cannot be read and replaced"
JOINED = "its experts cannot be run one by one"
BYPASSED = "later parts read more than the last layer's output"


def proven(model: PreTrainedModel, layers: Sequence[Layer], narrow: Mapping[Place, Place]) -> tuple[Layer, ...]:
    """The layers without the places that do not do what they should, each with the reason.

    ``narrow`` gives for a whole part the matrix at its end, which stands in where the part adds the residual stream.
    """
    pairs = [pair for layer in layers for pair in _pairs(layer)]
    readers = [(part, place) for part, whole in pairs for place in {whole, narrow.get(whole, whole)}]
    left = _left_of_nothing(model, [part for part, _ in pairs], [place for _, place in readers])
    unlike = {(part, place) for part, place in readers if place not in left or _varies(left[place])}
    patterns, wrong = _patterns(model), {**_experts(model, layers), **_stream(model, layers)}
    return tuple(_with_proof(layer, unlike, patterns, wrong, narrow) for layer in layers)


def _with_proof(
    layer: Layer,
    unlike: set[tuple[Place, Place]],
    patterns: set[nn.Module],
    wrong: Mapping[Site, str],
    narrow: Mapping[Place, Place],
) -> Layer:
    places, missing = dict(layer.places), dict(layer.missing)
    missing |= {site: why for site, why in wrong.items() if site in places}
    for part, whole in _pairs(layer):
        if (part, whole) in unlike:
            if whole not in narrow or (part, narrow[whole]) in unlike:
                missing[part.site] = PARTIAL
            else:
                places[whole.site] = narrow[whole]
    if layer.attention is not None and layer.attention not in patterns:
        missing[Site.ATTENTION_PATTERN] = HIDDEN
    if Site.HEAD_OUTPUT in missing and Site.KV_GROUP in places:
        missing[Site.KV_GROUP] = missing[Site.HEAD_OUTPUT]
    return replace(layer, places={s: p for s, p in places.items() if s not in missing}, missing=missing)


def _pairs(layer: Layer) -> list[tuple[Place, Place]]:
    found = [(layer.place(part), layer.place(whole)) for part, whole in WHOLE.items()]
    return [(part, whole) for part, whole in found if part is not None and whole is not None]


@torch.no_grad()
def _left_of_nothing(model: PreTrainedModel, zeroed: Sequence[Place], read: Sequence[Place]) -> dict[Place, Tensor]:
    """What the modules of some places give when others are set to zero."""
    seen: dict[Place, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(tapped(model, [(place, torch.zeros_like) for place in zeroed]))
        for place in read:
            stack.callback(place.module.register_forward_hook(_keeper(seen, place)).remove)
        model(input_ids=probe_ids(model), use_cache=False)
    return seen


def _experts(model: PreTrainedModel, layers: Sequence[Layer]) -> dict[Site, str]:
    """Nothing may be left of the experts' output when every contribution is set to zero."""
    places = [place for layer in layers if (place := layer.place(Site.EXPERT))]
    try:
        left = _left_of_nothing(model, places, places)
        whole = _left_of_nothing(model, [], places)
    except REFUSALS:
        return {Site.EXPERT: JOINED}
    sound = all(left[p].abs().max() <= CLOSE * whole[p].abs().max() for p in places)
    return {} if sound else {Site.EXPERT: JOINED}


@torch.no_grad()
def _stream(model: PreTrainedModel, layers: Sequence[Layer]) -> dict[Site, str]:
    """The logits may not tell tokens apart when the last layer gives zeros."""
    last = layers[-1].place(Site.RESIDUAL)
    if last is None:
        return {}
    with tapped(model, [(last, torch.zeros_like)]):
        logits = model(input_ids=probe_ids(model), use_cache=False).logits
    return {Site.RESIDUAL: BYPASSED} if _varies(logits) else {}


def _keeper(seen: dict[Place, Tensor], place: Place) -> Callable[..., None]:
    def keep(module: nn.Module, args: object, output: Any) -> None:
        seen[place] = output if isinstance(output, Tensor) else output[0]

    return keep


def _varies(value: Tensor) -> bool:
    """Whether the tokens differ, where only a bias can be left."""
    tokens = value.reshape(-1, value.shape[-1]).float()
    return bool((tokens - tokens[:1]).abs().max() > CLOSE * tokens.abs().max().clamp(min=CLOSE))


def _patterns(model: PreTrainedModel) -> set[nn.Module]:
    """Attention modules whose eager output is their weights times their values: those whose pattern can be patched."""
    good: set[nn.Module] = set()

    def compare(module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.original()
        if (
            weights is not None
            and weights.ndim == 4
            and weights.shape[-1] == call.value.shape[2]
            and torch.allclose(attend(weights, call.value), output, rtol=CLOSE, atol=CLOSE)
        ):
            good.add(module)
        return output, weights

    try:
        with attention_handler(model, compare, eager=True), torch.no_grad():
            model(input_ids=probe_ids(model), use_cache=False)
    except UnsupportedSite:
        return set()
    return good
