"""Placed dictionaries: where in a given model a dictionary reads and writes, and what it does to values there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from cotrace.components import Site
from cotrace.dictionaries.dictionary import Dictionary
from cotrace.errors import InputError, UnsupportedSite
from cotrace.models.discovery import MLP_NAMES
from cotrace.models.language_model import LanguageModel
from cotrace.models.places import Layer, OneHead, Place, PlacedDictionary, Unscaled

SITES = {
    "hook_resid_post": Site.RESIDUAL,
    "hook_mlp_out": Site.MLP_OUTPUT,
    "hook_attn_out": Site.ATTENTION_OUTPUT,
    "attn.hook_z": Site.HEAD_OUTPUT,
    "mlp.hook_post": Site.MLP_NEURON,
}
"""End of a TransformerLens name -> the site that it is."""
MLP_INPUT, NORMED = "mlp.hook_in", "ln2.hook_normalized"
NAMED = ("hook_resid_pre", *SITES, MLP_INPUT, NORMED)
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
PROBED = 3
"""Random tokens on which a norm is told by what it does."""


def with_dictionaries(
    model: LanguageModel, dictionaries: Iterable[Dictionary], trained_on: str | None = None
) -> LanguageModel:
    """The same model with these dictionaries at their places, instead of those that it had.

    ``trained_on`` is a name that their files may have for the model. Raises InputError for one of another model, width
    or hook, or two of one place; UnsupportedSite.
    """
    return model.holding(placed(model, dictionaries, trained_on))


def placed(
    model: LanguageModel, dictionaries: Iterable[Dictionary], trained_on: str | None = None
) -> tuple[PlacedDictionary, ...]:
    """Each dictionary where it belongs in the model, lowest layer first. ``trained_on`` is a name that its files may
    have for the model. Raises InputError for one of another model, width or hook, or two of one place."""
    found = sorted((_placed(model, one, trained_on) for one in dictionaries), key=lambda one: one.layer)
    for (layer, site), group in groupby(sorted(found, key=_where), key=_where):
        names = [one.dictionary.name for one in group]
        if len(names) > 1:
            raise InputError(
                f"dictionaries {' and '.join(names)} both write the {site} of layer {layer}, which only one can split "
                "into features; load one of them, by hook=... or its folder"
            )
    count = Counter(one.layer for one in found)
    return tuple(one if count[one.layer] == 1 else replace(one, alone=False) for one in found)


def _of_one_head(model: LanguageModel, dictionary: Dictionary, place: Place) -> Place:
    """The place of all heads, or of the one that the dictionary is of. Raises InputError."""
    if dictionary.head is None:
        return place
    if place.site is not Site.HEAD_OUTPUT:
        raise InputError(
            f"dictionary {dictionary.name} is of head {dictionary.head} of {dictionary.hook}, where heads cannot be "
            "told apart; dictionaries of one head are read at hook_z"
        )
    if dictionary.head >= place.units:
        raise InputError(
            f"dictionary {dictionary.name} is of head {dictionary.head}, and layer {place.layer} of {model.name} has "
            f"{place.units} heads: it belongs to another model"
        )
    return replace(place, units=1, head=OneHead(dictionary.head, place.width, place.units))


def _where(one: PlacedDictionary) -> tuple[int, str]:
    return one.layer, one.site.value


def _placed(model: LanguageModel, dictionary: Dictionary, trained_on: str | None) -> PlacedDictionary:
    _check_model(model, dictionary, trained_on)
    moved = dictionary.to(model.device, model.compute_dtype)
    if not dictionary.is_transcoder:
        place = _of_one_head(model, dictionary, host(model, dictionary, dictionary.hook))
        _check_width(model, dictionary, place, dictionary.d_in, dictionary.hook)
        return PlacedDictionary(moved, place.layer, place, place)
    if dictionary.head is not None:
        raise InputError(f"dictionary {dictionary.name} is a transcoder of one head; those of whole layers are read")
    write = host(model, dictionary, dictionary.hook_out)
    read, unscaled = _input(model, dictionary)
    if read.layer != write.layer or read.layer is None:
        raise InputError(
            f"dictionary {dictionary.name} reads layer {read.layer} and writes layer {write.layer}; transcoders of one "
            "layer are read"
        )
    _check_width(model, dictionary, read, dictionary.d_in, dictionary.hook)
    _check_width(model, dictionary, write, dictionary.d_out, dictionary.hook_out)
    return PlacedDictionary(moved, write.layer, read, write, unscaled)


def _check_model(model: LanguageModel, dictionary: Dictionary, trained_on: str | None) -> None:
    names = {_plain(name) for name in (model.name, trained_on) if name}
    if dictionary.model_name and _plain(dictionary.model_name) not in names:
        raise InputError(
            f"dictionary {dictionary.name} was trained on {dictionary.model_name}, and the model is {model.name}; load "
            f"that model, or where this one is the same or made from it, give trained_on={dictionary.model_name!r}"
        )


def _plain(name: str) -> str:
    """A model's name without its owner and without what only some write: gpt2 is gpt2-small."""
    return name.rsplit("/", 1)[-1].lower().removesuffix("-small").removesuffix("-hf")


def _check_width(model: LanguageModel, dictionary: Dictionary, place: Place, width: int, hook: str) -> None:
    own = place.units * place.width
    if own != width:
        raise InputError(
            f"dictionary {dictionary.name} has {width} numbers at {hook}, and {model.name} has {own} there: it belongs "
            "to another model"
        )


def host(model: LanguageModel, dictionary: Dictionary, hook: str) -> Place:
    """The place of the model that a hook names. Raises InputError, UnsupportedSite."""
    block = _BLOCK.fullmatch(hook)
    if block is None:
        return _by_path(model, dictionary, hook)
    layer, end = int(block[1]), block[2]
    if end == "hook_resid_pre":
        if layer == 0:
            raise InputError(
                f"dictionary {dictionary.name} is of the embeddings ({hook}), which are no site; take one of a later "
                "layer"
            )
        layer, end = layer - 1, "hook_resid_post"
    if end not in SITES:
        raise UnsupportedSite(
            f"dictionary {dictionary.name} is at {hook}, which is no site; these are: {', '.join(NAMED)}"
        )
    return _of_layer(model, dictionary, layer, SITES[end], hook)


def _of_layer(model: LanguageModel, dictionary: Dictionary, layer: int, site: Site, hook: str) -> Place:
    own = _layer(model, dictionary, layer, hook)
    place = own.place(site)
    if place is None:
        why = own.missing.get(site, f"layer {layer} has none")
        raise UnsupportedSite(f"dictionary {dictionary.name}: {model.name} has no {site} at {hook}: {why}")
    return place


def _layer(model: LanguageModel, dictionary: Dictionary, layer: int, hook: str) -> Layer:
    if layer >= len(model.layers):
        raise InputError(
            f"dictionary {dictionary.name} is of {hook}, and {model.name} has {len(model.layers)} layers: it belongs "
            "to another model"
        )
    return model.layers[layer]


def _by_path(model: LanguageModel, dictionary: Dictionary, path: str) -> Place:
    """The place whose tensor is the output of the module of that name."""
    named = dict(model.module.named_modules())
    whole = (Site.RESIDUAL, Site.MLP_OUTPUT, Site.ATTENTION_OUTPUT)
    for layer in model.layers:
        for site in whole:
            place = layer.place(site)
            if place is not None and path and place.module is named.get(path):
                return place
    raise UnsupportedSite(
        f"dictionary {dictionary.name} is at {path!r}, which is neither a module of {model.name} whose output is a "
        f"site, nor blocks.LAYER and one of {', '.join(NAMED)}"
    )


def _input(model: LanguageModel, dictionary: Dictionary) -> tuple[Place, Unscaled | None]:
    """Return a transcoder's input place, and the part taken out of its value. Raises InputError, UnsupportedSite."""
    block = _BLOCK.fullmatch(dictionary.hook)
    if block is None or block[2] not in (MLP_INPUT, NORMED):
        return host(model, dictionary, dictionary.hook), None
    own = _layer(model, dictionary, int(block[1]), dictionary.hook)
    written = _of_layer(model, dictionary, own.index, Site.MLP_OUTPUT, dictionary.hook)
    mlp = next((m for name, m in own.module.named_children() if name.lower() in MLP_NAMES), None)
    if mlp is None:
        raise UnsupportedSite(
            f"dictionary {dictionary.name}: layer {own.index} of {model.name} has no MLP of one module, so that its "
            "input is no place"
        )
    place = Place(Site.MLP_OUTPUT, own.index, mlp, "input", 1, dictionary.d_in)
    width = written.units * written.width
    _check_width(model, dictionary, replace(place, width=width), dictionary.d_in, dictionary.hook)
    return place, _unscaled(own, dictionary) if block[2] == NORMED else None


def _unscaled(layer: Layer, dictionary: Dictionary) -> Unscaled:
    """The weights of the norm before the MLP. Raises UnsupportedSite where no norm is known by what it does."""
    names = ("ln_2", "post_attention_layernorm", "pre_feedforward_layernorm", "ln2", "norm_2", "norm2", "ffn_norm")
    children = dict(layer.module.named_children())
    before = ("pre_feedforward_layernorm", *(name for name in names if name != "pre_feedforward_layernorm"))
    norm = next((children[name] for name in before if name in children), None)
    found = None if norm is None else next(_scales(norm), None)
    if found is None:
        raise UnsupportedSite(
            f"dictionary {dictionary.name} reads a normed value before its weight ({NORMED}), and no norm before the "
            f"MLP of layer {layer.index} is known to be one; use a transcoder of {MLP_INPUT}"
        )
    return found


@torch.no_grad()
def _scales(norm: nn.Module) -> Iterator[Unscaled]:
    """Weight and bias of a layer norm or a root-mean-square norm, whichever a run of it on random numbers shows."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if not isinstance(weight, Tensor):
        return
    probe = torch.randn(PROBED, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    given = norm(probe[None])[0].double()
    offset = torch.zeros_like(weight) if bias is None else bias
    values = probe.double()
    centred = values - values.mean(-1, keepdim=True)
    normed: Sequence[Tensor] = [
        values / values.square().mean(-1, keepdim=True).sqrt(),
        centred / centred.square().mean(-1, keepdim=True).sqrt(),
    ]
    tests: Sequence[Callable[[Tensor], Tensor]] = (lambda w: w, lambda w: 1 + w)  # Gemma multiplies with 1 + weight
    for gain in (test(weight.double()) for test in tests):
        for value in normed:
            if torch.allclose(value * gain + offset.double(), given, rtol=1e-2, atol=1e-3):
                yield Unscaled(gain.to(weight.dtype), offset)
