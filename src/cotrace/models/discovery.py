"""Discovery: what a decoder is made of, found by running it and proved on it.

Their heads are read where they enter the output projection: heads side by side, in order. They have no
``attention_pattern``: their softmax weights never leave the attention module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotrace.components import Site
from cotrace.errors import ModelError, UnsupportedSite
from cotrace.models.additions import where_added
from cotrace.models.hooks import CLOSE, REFUSALS, Trace, headless, hooked, probe_ids, varies, watch
from cotrace.models.places import Layer, Place

OUTPUT_PROJECTIONS: Mapping[str, str] = {
    "big_bird.BigBirdAttention": "output.dense",
    "bloom.BloomAttention": "dense",
    "codegen.CodeGenAttention": "out_proj",
    "falcon.FalconAttention": "dense",
    "git.GitAttention": "output.dense",
    "gpt_neo.GPTNeoSelfAttention": "out_proj",
    "gpt_neox_japanese.GPTNeoXJapaneseAttention": "dense",
    "gptj.GPTJAttention": "out_proj",
    "megatron_bert.MegatronBertAttention": "output.dense",
    "mpt.MptAttention": "out_proj",
    "mvp.MvpAttention": "out_proj",
    "openai.Attention": "c_proj",
    "rembert.RemBertAttention": "output.dense",
    "roformer.RoFormerAttention": "output.dense",
    "trocr.TrOCRAttention": "out_proj",
    "xglm.XGLMAttention": "out_proj",
    "xlm.MultiHeadAttention": "out_lin",
}
"""``family.Class`` of the attention module -> the part of it that all heads enter side by side."""
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def output_projection(module: nn.Module) -> nn.Module | None:
    """The projection that the module's heads enter; None where the table does not list the module."""
    family = type(module).__module__.split(".")[-2:][0]
    path = OUTPUT_PROJECTIONS.get(f"{family}.{type(module).__name__}")
    return None if path is None else module.get_submodule(path)


def head_count(module: nn.Module) -> int:
    """Number of query heads that the attention module, or a part of it, says it has; 0 where none does."""
    told = (getattr(part, name) for part in module.modules() for name in HEAD_COUNTS if hasattr(part, name))
    return next((count for count in told if isinstance(count, int)), 0)


WHOLE = {Site.HEAD_OUTPUT: Site.ATTENTION_OUTPUT, Site.MLP_NEURON: Site.MLP_OUTPUT}
"""Site whose units together are all of another site -> that site."""
PARTIAL = "it is not all of what the layer adds"
HIDDEN = "its softmax weights cannot be read and replaced"
JOINED = "its experts cannot be run one by one"


def proven(
    model: PreTrainedModel, layers: Sequence[Layer], narrow: Mapping[Place, Place], trace: Trace
) -> tuple[Layer, ...]:
    """Return the layers without the places that failed their proof, each with the reason.

    ``narrow`` gives for a whole part the matrix at its end, which stands in where the part adds the residual stream.
    """
    pairs = [pair for layer in layers for pair in _pairs(layer)]
    readers = [(part, place) for part, whole in pairs for place in {whole, narrow.get(whole, whole)}]
    left = _left_of_nothing(model, [part for part, _ in pairs], [place for _, place in readers])
    unlike = {(part, place) for part, place in readers if place not in left or varies(left[place])}
    wrong = _experts(model, layers, trace)
    return tuple(_with_proof(layer, unlike, trace.patterns, wrong, narrow) for layer in layers)


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
    """Return the outputs of some places' modules when others are set to zero."""
    seen: dict[Place, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(headless(model))
        stack.enter_context(hooked(model, [(place, torch.zeros_like) for place in zeroed]))
        for place in read:
            stack.callback(place.module.register_forward_hook(_keeper(seen, place)).remove)
        model(input_ids=probe_ids(model), use_cache=False)
    return seen


def _experts(model: PreTrainedModel, layers: Sequence[Layer], trace: Trace) -> dict[Site, str]:
    """Find the experts: with every contribution set to zero, nothing may be left of their output."""
    places = [place for layer in layers if (place := layer.place(Site.EXPERT))]
    try:
        left = _left_of_nothing(model, places, places) if places else {}
    except REFUSALS:
        return {Site.EXPERT: JOINED}
    sound = all(left[p].abs().max() <= CLOSE * trace.left[p.module].abs().max() for p in places)
    return {} if sound else {Site.EXPERT: JOINED}


def _keeper(seen: dict[Place, Tensor], place: Place) -> Callable[..., None]:
    def keep(module: nn.Module, args: object, output: Any) -> None:
        seen[place] = output if isinstance(output, Tensor) else output[0]

    return keep


MLP_NAMES = ("mlp", "feed_forward", "feedforward", "ffn", "ff", "mlp_block", "moe", "block_sparse_moe", "mixer")
OTHER_MIXERS = (nn.Conv1d,)
"""A part that holds one of these is a state-space or convolution mixer and no MLP."""


def dissect(model: PreTrainedModel) -> tuple[Layer, ...]:
    """The decoder layers with their parts. Raises ModelError where no decoder layers are found."""
    with headless(model):
        try:
            trace = watch(model, eager=True)
        except UnsupportedSite:
            trace = watch(model)
    stack = decoder_layers(model, trace)
    layers = [_layer(index, module, trace) for index, module in enumerate(stack)]
    narrow = {place: last for layer in layers for place, last in _narrow(layer, trace)}
    return where_added(model, proven(model, _with_residual(layers, trace), narrow, trace), trace)


def decoder_layers(model: PreTrainedModel, trace: Trace) -> list[nn.Module]:
    """The stack of decoder layers: the module list that ran once whole and in which most members attend."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    ran = [s for s in stacks if all(trace.calls[layer] for layer in s)]
    if not ran:
        raise ModelError(
            f"{type(model).__name__}: found no stack of decoder layers that takes token after token; cotrace traces "
            "decoder-only transformers and hybrids of them"
        )

    def rank(stack: Any) -> tuple[int, bool, int, int]:
        attending = sum(any(True for _ in _attending(layer, trace)) for layer in stack)
        return attending, all(map(trace.width, stack)), len(stack), sum(1 for _ in stack.modules())

    return list(max(ran, key=rank))


def _attending(layer: nn.Module, trace: Trace) -> Iterator[nn.Module]:
    """The modules in a layer that attend, through the interface or by the table."""
    for module in layer.modules():
        if module in trace.attention or (trace.calls[module] and output_projection(module) is not None):
            yield module


def _layer(index: int, layer: nn.Module, trace: Trace) -> Layer:
    found = list(_attending(layer, trace))
    attention = found[0] if len(found) == 1 and trace.calls[found[0]] == 1 else None
    places = {**_attention_places(index, layer, attention, trace), **_mlp_places(index, layer, attention, trace)}
    missing = {}
    if found and attention is None:
        why = "the layer attends several times" if len(found) > 1 else "its attention runs several times in one forward"
        missing = dict.fromkeys((Site.ATTENTION_PATTERN, Site.HEAD_OUTPUT, Site.ATTENTION_OUTPUT), why)
    return Layer(index, layer, attention, places, missing, projection=_taking_heads(layer, attention, places, trace))


def _taking_heads(
    layer: nn.Module, attention: nn.Module | None, places: Mapping[Site, Place], trace: Trace
) -> nn.Module | None:
    """The matrix behind the heads, where it has an input for each number of each head and no others."""
    heads = places.get(Site.HEAD_OUTPUT)
    if attention is None or heads is None or (matrix := _projection(layer, attention, trace)) is None:
        return None
    return matrix if trace.linear[matrix][0] == heads.units * heads.width else None


def _attention_places(index: int, layer: nn.Module, attention: nn.Module | None, trace: Trace) -> dict[Site, Place]:
    if attention is None:
        return {}
    found: dict[Site, Place] = {}
    if (seen := trace.attention.get(attention)) is not None:
        found[Site.ATTENTION_PATTERN] = Place(
            Site.ATTENTION_PATTERN, index, attention, "pattern", seen.count, seen.width
        )
        found[Site.HEAD_OUTPUT] = Place(Site.HEAD_OUTPUT, index, attention, "attention", seen.count, seen.width)
        if seen.kv_count < seen.count:
            width = seen.width * seen.count // seen.kv_count
            found[Site.KV_GROUP] = Place(Site.KV_GROUP, index, attention, "attention", seen.kv_count, width)
    elif (projection := output_projection(attention)) in trace.linear and (count := head_count(attention)):
        width = trace.linear[projection][0] // count
        found[Site.HEAD_OUTPUT] = Place(Site.HEAD_OUTPUT, index, projection, "input", count, width)
    output = _attention_output(layer, attention, trace)
    if output is not None and (width_ := trace.width(output)):
        found[Site.ATTENTION_OUTPUT] = Place(Site.ATTENTION_OUTPUT, index, output, "output", 1, width_)
    return found


def _attention_output(layer: nn.Module, attention: nn.Module, trace: Trace) -> nn.Module | None:
    """The attention module where its output projection is inside it, else that projection."""
    projection = _projection(layer, attention, trace)
    return attention if projection in set(attention.modules()) else projection


def _projection(layer: nn.Module, attention: nn.Module, trace: Trace) -> nn.Module | None:
    """The last matrix inside the attention module, or where that holds none behind its heads, the next one to run."""
    when = seen.order if (seen := trace.attention.get(attention)) else 0
    inside = [m for m in _ordered(attention.modules(), trace) if m in trace.linear and trace.order[m] > when]
    later = [m for m in _ordered(layer.modules(), trace) if m in trace.linear and trace.order[m] > when]
    return next((m for m in (*inside[-1:], *later) if trace.once(m)), None)


def _narrow(layer: Layer, trace: Trace) -> Iterator[tuple[Place, Place]]:
    """Return the projection at the end of an attention output, in place of a module that adds more than the heads."""
    whole = layer.place(Site.ATTENTION_OUTPUT)
    if whole and layer.attention and (last := _projection(layer.module, layer.attention, trace)):
        yield whole, replace(whole, module=last)


def _adds_stream(whole: nn.Module, last: nn.Module, trace: Trace) -> bool:
    """Whether the module gives its last matrix's output plus a tensor that it was given: the residual stream."""
    if trace.left[whole].shape != trace.left[last].shape:
        return False
    rest = trace.left[whole] - trace.left[last].to(trace.left[whole].device)
    given = (g.to(rest.device, rest.dtype) for g in trace.beside[whole] if g.shape == rest.shape)
    return any(torch.allclose(rest, stream, rtol=CLOSE, atol=CLOSE) for stream in given)


def _mlp_places(index: int, layer: nn.Module, attention: nn.Module | None, trace: Trace) -> dict[Site, Place]:
    mlp = _mlp(layer, attention, trace)
    down = _down_projection(mlp or layer, attention, trace, layer)
    whole = down if mlp is None or (down is not None and _adds_stream(mlp, down, trace)) else mlp
    if whole is None or not (width := trace.width(whole)):
        return {}
    found = {
        Site.MLP_OUTPUT: Place(Site.MLP_OUTPUT, index, whole, "output", 1, width),
        Site.MLP_COORDINATE: Place(Site.MLP_COORDINATE, index, whole, "output", width, 1),
    }
    if down is not None and trace.linear[down][1] == width:
        found[Site.MLP_NEURON] = Place(Site.MLP_NEURON, index, down, "input", trace.linear[down][0], 1)
    experts = [m for m in layer.modules() if m in trace.experts and trace.once(m)]
    if len(experts) == 1:
        d_model = trace.left[experts[0]].shape[-1]
        found[Site.EXPERT] = Place(Site.EXPERT, index, experts[0], "experts", trace.experts[experts[0]], d_model)
    return found


def _mlp(layer: nn.Module, attention: nn.Module | None, trace: Trace) -> nn.Module | None:
    """The outermost part that is named as an MLP, ran once and neither attends nor convolves."""
    names = {module: name.rsplit(".", 1)[-1].lower() for name, module in layer.named_modules() if name}
    named = [m for m, name in names.items() if name in MLP_NAMES and trace.once(m) and _is_mlp(m, attention, trace)]
    return next(iter(named), None)


def _is_mlp(module: nn.Module, attention: nn.Module | None, trace: Trace) -> bool:
    inside = list(module.modules())
    mixes = attention in inside or any(isinstance(m, OTHER_MIXERS) or m in trace.attention for m in inside)
    works = any(m in trace.linear or m in trace.experts for m in inside)
    return works and not mixes and trace.width(module) is not None


def _down_projection(part: nn.Module, attention: nn.Module | None, trace: Trace, layer: nn.Module) -> nn.Module | None:
    """The last matrix of the MLP; where its matrices hang in the layer itself, the last of a pair behind attention."""
    inside = [m for m in _ordered(part.modules(), trace) if m in trace.linear and trace.once(m)]
    if part is not layer:
        return inside[-1] if inside else None
    if attention is None:
        return None
    heads = {*attention.modules(), _attention_output(layer, attention, trace)}
    pair = [m for m in inside if m not in heads][-2:]
    joined = len(pair) == 2 and trace.linear[pair[0]][1] == trace.linear[pair[1]][0]
    return pair[1] if joined and trace.linear[pair[1]][1] == trace.linear[pair[0]][0] else None


def _ordered(modules: Iterable[nn.Module], trace: Trace) -> list[nn.Module]:
    return sorted((m for m in modules if m in trace.order), key=trace.order.__getitem__)


def _with_residual(layers: list[Layer], trace: Trace) -> list[Layer]:
    """Add the residual stream where each layer's output is exactly the next layer's input."""
    passed_on = [_passes_on(a, b, trace) for a, b in pairwise(layers)]
    passed_on.append(all(passed_on))
    return [_residual(layer, on, trace) for layer, on in zip(layers, passed_on, strict=True)]


def _passes_on(layer: Layer, following: Layer, trace: Trace) -> bool:
    left, entered = trace.left.get(layer.module), trace.entered.get(following.module)
    return (
        left is not None
        and entered is not None
        and left.shape == entered.shape
        and bool((left == entered.to(left.device)).all())
    )


def _residual(layer: Layer, passed_on: bool, trace: Trace) -> Layer:
    width = trace.width(layer.module)
    if width is None or not trace.once(layer.module) or not passed_on:
        return replace(layer, missing={**layer.missing, Site.RESIDUAL: "a layer's output is not the next one's input"})
    place = Place(Site.RESIDUAL, layer.index, layer.module, "output", 1, width)
    return replace(layer, places=_ordered_by_site({**layer.places, Site.RESIDUAL: place}))


def _ordered_by_site(places: Mapping[Site, Place]) -> dict[Site, Place]:
    return {site: places[site] for site in Site if site in places}
