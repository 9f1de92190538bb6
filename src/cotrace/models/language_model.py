"""LanguageModel: a decoder with its tokenizer, taken out of wrappers, and whether it has changed since."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cotrace.components import OF_DICTIONARIES, Component, ComponentSpace, Layers, Site
from cotrace.errors import ModelError, UnsupportedSite
from cotrace.models.attention_interface import (
    compute_device,
    fresh_frequencies,
    implementation_names,
    keep_gradients,
    modules_of,
    rope_limits,
)
from cotrace.models.discovery import dissect
from cotrace.models.places import Layer, Place, named_space
from cotrace.results import Frontier, Selection
from cotrace.validation import checked, guarded, names_of

if TYPE_CHECKING:
    from cotrace.models.places import PlacedDictionary

T = TypeVar("T")
INSIDE: Mapping[str, str] = {
    "nnsight": "_model",
    "torch._dynamo": "_orig_mod",
    "torch.nn.parallel": "module",
    "peft": "base_model.model",
}
"""Library of the wrapper -> where it keeps the very model that runs. Of peft only adapters inside the layers (LoRA and
its kin) are part of that model."""
PROMPT_LEARNING = "is_prompt_learning"
REBUILT = ("transformer_lens",)
"""Libraries that replace a model's modules or rewrite its weights: what is inside is not the plain model any more."""
PLAIN = "AutoModelForCausalLM.from_pretrained({name!r})"


def unwrapped(model: Any) -> PreTrainedModel:
    """The Hugging Face model itself. Raises ModelError where there is none, or it is not what the wrapper runs."""
    if isinstance(model, PreTrainedModel):
        return model
    library = type(model).__module__
    if library.split(".")[0] in REBUILT:
        raise ModelError(
            f"{type(model).__name__} of {library.split('.')[0]} rebuilds the model it wraps; pass the plain one: "
            f"cotrace.wrap({PLAIN.format(name=_name(model))}, tokenizer)"
        )
    path = next((path for start, path in INSIDE.items() if library.startswith(start)), None)
    inner = None if path is None or _changes_prompts(model) else _walk(model, path)
    if not isinstance(inner, PreTrainedModel):
        raise ModelError(f"{type(model).__name__} is not a Hugging Face model: pass a PreTrainedModel decoder")
    return inner


def _walk(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name, None)
    return model


def _changes_prompts(model: Any) -> bool:
    """Whether a peft model adds tokens of its own, which the model inside knows nothing of."""
    return bool(getattr(getattr(model, "active_peft_config", None), PROMPT_LEARNING, False))


def _name(model: Any) -> str:
    config = getattr(model, "cfg", None)
    return str(getattr(config, "model_name", None) or "MODEL")


POSITION_OFFSETS = (0, 1, 2)
"""Rows that families keep in front of the first position (OPT two), so that a table has so many more."""


@guarded("LanguageModel", fields=False)
@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A Hugging Face decoder in evaluation mode, its tokenizer, and where each site lives in it."""

    module: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase | None = field(repr=False)
    name: str
    revision: str | None = None
    dictionaries: tuple[PlacedDictionary, ...] = ()
    """Dictionaries at their places, one at each: what the sites ``feature`` and ``error`` are made of."""
    loaded: Mapping[str, Any] | None = field(default=None, repr=False)
    """Arguments of ``load_model``, so that others can load the same; None where the model was in memory."""
    _known: dict[Callable[[LanguageModel], Any], tuple[ModelState, Any]] = field(
        default_factory=dict, init=False, repr=False
    )
    """Found out before, and the state of the model that it was found out about."""

    def once(self, find_out: Callable[[LanguageModel], T]) -> T:
        """Return what is found out about the model, anew only where it has changed since."""
        kept = self._known.get(find_out)
        if kept is None or kept[0].changed():
            kept = self._known[find_out] = ModelState.of(self), find_out(self)
        found: T = kept[1]
        return found

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The decoder layers with their parts, found by one short forward pass."""
        with evaluating(self.module), fresh_frequencies(self.module):
            return dissect(self.module)

    @property
    def device(self) -> torch.device:
        """Where the first layer computes; accelerate may keep its weights elsewhere."""
        return compute_device(self.module)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.module.dtype
        return dtype

    @property
    def rounding_dtype(self) -> torch.dtype:
        """The coarsest type that activations pass through: 8-bit weights (LLM.int8) round them to float16."""
        quantised = getattr(self.module.config, "quantization_config", None)
        return torch.float16 if getattr(quantised, "load_in_8bit", False) else self.dtype

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type of masks, effects and reductions: float32, or float64 where the model is."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites that at least one layer has."""
        return tuple(site for site in Site if any(layer.place(site) for layer in self.layers))

    def places(self, site: Site) -> dict[int, Place]:
        """Layer -> where the site lives. Raises UnsupportedSite, naming the sites that the model has."""
        if site in OF_DICTIONARIES:
            return self._parts_of_dictionaries(site)
        found = {layer.index: place for layer in self.layers if (place := layer.place(site)) is not None}
        if not found:
            raise UnsupportedSite(f"{self.name} has no {site}; it has {', '.join(self.sites)}")
        return found

    def _parts_of_dictionaries(self, site: Site) -> dict[int, Place]:
        if not self.dictionaries:
            raise UnsupportedSite(
                f"{self.name} has no {site}, which is a part of a dictionary: give dictionaries=ct.load_dictionaries("
                "FOLDER)"
            )
        parts = [part for one in self.dictionaries for part in (one.features, one.error)]
        found: dict[int, Place] = {part.layer: part for part in parts if part.site is site}
        if not found:
            raise UnsupportedSite(
                f"{self.name} has no {site}; it has {', '.join(dict.fromkeys(p.site for p in parts))}"
            )
        return found

    def meant(self, site: Site) -> tuple[Site, ...]:
        """The sites that a name stands for: ``feature`` and ``error`` are those of all dictionaries."""
        if site not in (Site.FEATURE, Site.ERROR) or not self.dictionaries:
            return (site,)
        own = [one.feature_site if site is Site.FEATURE else one.error_site for one in self.dictionaries]
        return tuple(sorted(set(own), key=list(Site).index))

    def holding(self, dictionaries: tuple[PlacedDictionary, ...]) -> LanguageModel:
        """The same model, not taken apart anew, with dictionaries that have their places."""
        other = replace(self, dictionaries=dictionaries)
        vars(other).update(layers=self.layers, known=self._known)
        return other

    def plain_sites(self, sites: Sequence[Site]) -> tuple[Site, ...]:
        """The sites, features and errors as the sites whose values they are parts of; each once."""
        return tuple(dict.fromkeys(s for site in sites for s in self._plain(site)))

    def _plain(self, site: Site) -> tuple[Site, ...]:
        if site not in OF_DICTIONARIES:
            return (site,)
        own = self.meant(site)
        return tuple(one.site for one in self.dictionaries if not {one.feature_site, one.error_site}.isdisjoint(own))

    @cached_property
    def most_tokens(self) -> int | None:
        """How many tokens a row may have: the rows of a table of positions, learned or kept; None where there is none.

        Positions that are computed as they are needed (rotary, ALiBi) have no end at which a run fails.
        """
        named = getattr(self.module.config.get_text_config(), "max_position_embeddings", None)
        words = self.module.get_input_embeddings()
        tables = [m for m in self.module.modules() if isinstance(m, nn.Embedding) and m is not words]
        learned = any(table.num_embeddings - named in POSITION_OFFSETS for table in tables) if named else False
        kept = any(table.ndim == 2 and len(table) == named for table in self.module.buffers())  # GPT-J's sines
        return named if learned or kept else None

    @cached_property
    def growing_frequencies(self) -> bool:
        """Whether RoPE frequencies depend on the rows that were run before."""
        return any(not stepped for _, stepped in rope_limits(self.module))

    def takes(self, argument: str) -> bool:
        """Whether the model's forward takes an argument of that name."""
        return argument in inspect.signature(self.module.forward).parameters

    @checked("model.space")
    def space(
        self,
        sites: Iterable[str | Site | Component] | Frontier | Selection,
        roles: Sequence[str] = ("all",),
        layers: Layers = None,
    ) -> ComponentSpace:
        """Return the components of these sites, names or patterns, each once for each of the position ``roles``.

        ``sites`` takes what ``LanguageProblem`` takes: whole sites (``head_output``), one at a role
        (``head_output@last``), single components (``L4.head2``), patterns (``L4.*``), or a shortlist: a Selection, or
        the sets of a Frontier; ``layers`` narrows them: a range, numbers, or text such as ``8..16``.
        Raises UnknownName, UnsupportedSite, InputError.
        """
        return named_space(self, sites, names_of("model.space", "roles", roles), layers)

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer. Raises ModelError where the model was wrapped without one."""
        if self.tokenizer is None:
            raise ModelError(
                f"{self.name} has no tokenizer, which prompts need: save one in its folder, or pass one to "
                "ct.wrap(model, tokenizer)"
            )
        return self.tokenizer


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, no parameter asking for a gradient; all is as before afterwards.

    So a backward pass is over activations only.
    """
    parts = modules_of(module)
    training = [part for part in parts if part.training]
    held = (one for part in parts for one in part._parameters.values())  # noqa: SLF001
    asking = [one for one in held if one is not None and one.requires_grad]
    if training:
        module.eval()
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for part in training:
            part.training = True
        for parameter in asking:
            parameter.requires_grad_(True)


@checked("ct.wrap")
def wrap(
    model: PreTrainedModel | Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    name: str | None = None,
    revision: str | None = None,
) -> LanguageModel:
    """Use a Hugging Face decoder that is already in memory. Raises ModelError for anything else.

    A model inside another library's wrapper is taken out of it where it is the very same model.

    Args:
        model: A decoder of transformers, or another library's wrapper around one.
        tokenizer: Its tokenizer; None for the wrapper's own.
        name: Name in results; None for the configuration's own.
        revision: Branch, tag or commit, for the record.
    """
    model = unwrapped(model)
    if model.config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise ModelError(f"{type(model).__name__} is not a causal decoder: load it with AutoModelForCausalLM")
    keep_gradients(model)
    label = name or label_of(model.config.name_or_path) or type(model).__name__
    return LanguageModel(module=model, tokenizer=tokenizer, name=label, revision=revision)


def label_of(name: str | Path) -> str:
    """The name under which results speak of a model: its id, or the last part of a local path."""
    return Path(name).name if Path(name).exists() else str(name)


@dataclass(frozen=True, eq=False)
class ModelState:
    """A model's modules, weights and attention as they were when donor values and base scores were computed.

    Weights are known by their version counter and place in memory, and by a sample of their numbers that touches every
    row and column: an edit through ``.data`` moves neither of the former.
    """

    model: LanguageModel
    modules: tuple[nn.Module, ...]
    attention: tuple[str, ...]
    weights: tuple[tuple[int, int, torch.dtype, torch.device], ...]
    views: tuple[Tensor, ...]
    """Samples of the weights as they are at any time, where these are contiguous."""
    samples: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: LanguageModel) -> ModelState:
        """Return the model's state as it is now."""
        modules, attention = tuple(modules_of(model.module)), implementation_names(model.module)
        held = _held(modules)
        views = tuple(map(_sample, held))
        marks = tuple((one._version, one.data_ptr(), one.dtype, one.device) for one in held)  # noqa: SLF001
        return cls(model, modules, attention, marks, views, tuple(view.clone() for view in views))

    def check(self) -> None:
        """Raise ModelError where something has changed since."""
        if changed := self.changed():
            raise ModelError(
                f"{self.model.name} is not as it was when the problem was made: {changed}, so donor values and base "
                "scores are those of another model; make the problem anew"
            )

    def changed(self) -> str:
        """Say what has changed since; empty where nothing has."""
        module = self.model.module
        if implementation_names(module) != self.attention:
            return f"its attention implementation was {_words(self.attention)}"
        modules = tuple(modules_of(module))
        if modules != self.modules:
            return "a module has been replaced, added or removed"
        held = _held(modules)
        if len(held) != len(self.weights):
            return "a weight has been added or removed"
        for weight, mark, view, sample in zip(held, self.weights, self.views, self.samples, strict=True):
            same = (weight._version, weight.data_ptr(), weight.dtype, weight.device) == mark  # noqa: SLF001
            if not same or not torch.equal(view if weight.is_contiguous() else _sample(weight), sample):
                return _change(next(name for name, one in _weights(module).items() if one is weight), weight, mark)
        return ""


def _change(name: str, weight: Tensor, mark: tuple[int, int, torch.dtype, torch.device]) -> str:
    if weight.dtype != mark[2]:
        return f"{name} was of type {str(mark[2]).removeprefix('torch.')}"
    return f"{name} was on {mark[3]}" if weight.device != mark[3] else f"the weights {name} have changed"


def _words(names: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(names))


def _held(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Parameters and saved buffers, once each, but for those that stand elsewhere and come when they are needed."""
    found: list[Tensor | None] = []
    for part in modules:
        found += part._parameters.values()  # noqa: SLF001
        passing = part._non_persistent_buffers_set  # noqa: SLF001
        found += [one for name, one in part._buffers.items() if name not in passing]  # noqa: SLF001
    return [one for one in dict.fromkeys(found) if one is not None and not one.is_meta]


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """The same by name."""
    held = set(map(id, _held(modules_of(module))))
    return {name: one for name, one in (*module.named_parameters(), *module.named_buffers()) if id(one) in held}


def _sample(weight: Tensor) -> Tensor:
    """Every so-manieth number, so that each row and each column of a matrix has one."""
    flat = weight.detach().reshape(-1)
    if weight.ndim < 2:
        return flat
    columns = weight.shape[-1]
    step = max(1, min(len(flat) // max(columns, 1), columns - 1))
    while math.gcd(step, columns) != 1:
        step -= 1
    return flat[::step]


def fingerprints(model: LanguageModel) -> dict[str, str]:
    """Weight -> hash of a sample of its numbers that touches every row and column; those kept elsewhere have none.

    Equal for replicas of one model of one number type, wherever they are.
    """
    samples = {name: _sample(weight).contiguous().cpu() for name, weight in _weights(model.module).items()}
    return {name: hashlib.sha256(one.view(torch.uint8).numpy().tobytes()).hexdigest() for name, one in samples.items()}
