"""Cards of features: the tokens on which each is active, and those that it makes likelier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.functional import jvp

from cotrace.batches.tokenize import TextTokenizer, base_text, counterfactual_text
from cotrace.components import FEATURE_SITES, Component, Site
from cotrace.errors import InputError, UnsupportedSite
from cotrace.models.discovery import output_projection
from cotrace.models.hooks import hooked, probe_ids
from cotrace.models.language_model import LanguageModel, evaluating
from cotrace.models.places import PlacedDictionary
from cotrace.prompts import Task
from cotrace.validation import checked, names_of

NEURONPEDIA = "https://www.neuronpedia.org"
PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "wo")
AROUND = 6
"""Tokens that an example shows before the active one, and half as many behind it."""


@dataclass(frozen=True)
class ActiveOn:
    """A token on which a feature is active."""

    before: str
    token: str
    after: str
    activation: float

    def __str__(self) -> str:
        return f"{self.before}[{self.token}]{self.after} ({self.activation:.2f})"


@dataclass(frozen=True)
class FeatureCard:
    """Description of one feature."""

    component: str
    """Name of the feature, such as ``L5.feature1203``."""
    dictionary: str
    """Name of its dictionary."""
    hook: str
    """The place that its dictionary writes."""
    active_share: float
    """Share of the tokens on which it is active."""
    active_on: tuple[ActiveOn, ...]
    """The tokens on which it is most active, one of a text, in different surroundings."""
    promoted: tuple[tuple[str, float], ...]
    """Tokens whose logits it raises most, straight through the final norm, by how much at activation 1."""
    suppressed: tuple[tuple[str, float], ...]
    """Tokens whose logits it lowers most."""
    link: str | None = None
    """Its page at Neuronpedia, where the dictionary names one; nothing is fetched."""

    @property
    def words(self) -> str:
        """One line: where it is active, and what it promotes."""
        where = "; ".join(map(str, self.active_on[:3])) or "never active on these texts"
        tokens = ", ".join(repr(token) for token, _ in self.promoted[:5])
        return f"{self.component}: active on {self.active_share:.1%} of the tokens, most in {where}; promotes {tokens}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@checked("ct.dictionaries.describe")
def describe(
    model: LanguageModel,
    components: Iterable[str | Component],
    texts: Sequence[str] | Task,
    *,
    examples: int = 5,
    tokens: int = 8,
) -> list[FeatureCard]:
    """A card for each feature among the components; what is no feature is left out.

    ``model`` has the dictionaries (``problem.model``, or ``dictionaries.on(model)``). ``texts`` are those that it is
    looked for in: plain texts, or a task's prompts, chats as the model's template renders them. Cards hold so many
    ``examples`` and ``tokens``. A feature's tokens
    are those of its decoder row brought through the output matrix that it enters, the final norm at the states where it
    is most active, and the unembedding. Raises InputError for a feature of no dictionary of the model.
    """
    wanted = _by_dictionary(model, components)
    if not wanted:
        return []
    written = _tokens(model, texts)
    if not written:
        raise InputError("describe: there are no texts to look for features in; give some, or a task")
    return described(model, components, written, examples, tokens)


def described(
    model: LanguageModel,
    components: Iterable[str | Component],
    texts: Sequence[Sequence[int]],
    examples: int = 5,
    tokens: int = 8,
) -> list[FeatureCard]:
    """The same, from texts that are tokens already."""
    wanted, encoded = _by_dictionary(model, components), [list(ids) for ids in texts if len(ids)]
    norm = final_norm(model)
    seen = [_Seen(placed, torch.tensor(sorted(units))) for placed, units in wanted.items()]
    total = 0
    for ids in encoded:
        total += len(ids)
        state = _run(model, seen, norm, ids, examples)
        for one in seen:
            one.keep(state, ids, examples)
    found = {card.component: card for one in seen for card in one.cards(model, norm, total, tokens)}
    return [found[str(component)] for component in _features(components)]


def link_of(placed: PlacedDictionary, unit: int) -> str | None:
    """A feature's page at Neuronpedia; None where the dictionary names no id."""
    identity = placed.dictionary.neuronpedia
    return None if identity is None else f"{NEURONPEDIA}/{quote(identity)}/{unit}"


@checked("ct.dictionaries.features_of_heads")
def features_of_heads(model: LanguageModel, heads: Iterable[str | Component], *, share: float = 0.5) -> list[Component]:
    """The features that write to these heads: of dictionaries of ``head_output``, those of whose decoder row at least
    this ``share`` (of its squared length) lies in the heads' numbers. Raises InputError where a layer has none.

    Args:
        model: The model, with dictionaries in it.
        heads: Names of heads, or components.
        share: Least share of a decoder row's squared length.
    """
    chosen: dict[int, list[int]] = {}
    for head in _parsed(heads):
        if head.site is not Site.HEAD_OUTPUT:
            raise InputError(f"{head} is no head: give heads, such as L9.head6")
        chosen.setdefault(head.layer, []).append(head.unit or 0)
    found: list[Component] = []
    held = {one.layer: one for one in model.dictionaries if one.site is Site.HEAD_OUTPUT}
    for layer, units in sorted(chosen.items()):
        if layer not in held:
            raise InputError(f"{model.name} has no dictionary of the heads of layer {layer} (hook_z): load one")
        place, rows = held[layer].write, held[layer].dictionary.decoder
        count = place.units if place.head is None else place.head.heads
        if max(units) >= count:
            raise InputError(f"{model.name} has no L{layer}.head{max(units)}; its layer has {count}")
        rows = rows if place.head is None else place.head.padded(rows)
        squares = rows.square().reshape(len(rows), count, -1).sum(2)
        inside = squares[:, units].sum(1) >= share * squares.sum(1)
        found += [Component(held[layer].feature_site, layer, unit) for unit in torch.nonzero(inside).flatten().tolist()]
    return found


def _parsed(components: Iterable[str | Component]) -> list[Component]:
    return [one if isinstance(one, Component) else Component.parse(one) for one in components]


def _features(components: Iterable[str | Component]) -> list[Component]:
    """Return the components that are features, without their roles; each once."""
    found = (one for one in _parsed(components) if one.site in FEATURE_SITES)
    return list(dict.fromkeys(Component(one.site, one.layer, one.unit) for one in found))


def _by_dictionary(model: LanguageModel, components: Iterable[str | Component]) -> dict[PlacedDictionary, set[int]]:
    held = {(one.layer, one.feature_site): one for one in model.dictionaries}
    wanted: dict[PlacedDictionary, set[int]] = {}
    for one in _features(components):
        placed = held.get((one.layer, one.site))
        if placed is None or (one.unit or 0) >= placed.dictionary.size:
            raise InputError(f"{model.name} has no {one}: give the model with the dictionaries that it was found in")
        wanted.setdefault(placed, set()).add(one.unit or 0)
    return wanted


def _tokens(model: LanguageModel, texts: Sequence[str] | Task) -> list[Sequence[int]]:
    """Return the tokens of each text, or of each prompt of a task; each once."""
    words = model.require_tokenizer()
    if not isinstance(texts, Task):
        plain = list(dict.fromkeys(names_of("describe", "texts", texts)))
        return list(words(plain)["input_ids"]) if plain else []
    tokens, prompts = TextTokenizer(words), dict[tuple[str, bool], None]()
    for pair in texts.pairs:
        found = [base_text(pair, words, {})]
        if pair.counterfactual or pair.counterfactual_messages:
            found.append(counterfactual_text(pair, words, {}))
        prompts |= dict.fromkeys((one.text, one.rendered) for one in found)
    return [tokens.many([text], rendered=rendered)[0].ids for text, rendered in prompts]


@torch.no_grad()
def final_norm(model: LanguageModel) -> nn.Module:
    """The module whose output is what the unembedding reads. Raises UnsupportedSite where there is none."""
    inside = {part for layer in model.layers for part in layer.module.modules()}
    gave: dict[nn.Module, Tensor] = {}
    read: list[Tensor] = []
    head = model.module.get_output_embeddings()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            gave[module] = output

    with ExitStack() as stack, evaluating(model.module):
        for part in model.module.modules():
            if part not in inside and part is not head and not list(part.children()):
                stack.callback(part.register_forward_hook(note).remove)
        stack.callback(head.register_forward_pre_hook(lambda _, args: read.append(args[0])).remove)
        model.module(input_ids=probe_ids(model.module), use_cache=False)
    found = [m for m, out in gave.items() if read and out.shape == read[-1].shape and torch.equal(out, read[-1])]
    if not found:
        raise UnsupportedSite(
            f"{model.name}: no norm before the unembedding is found, so promoted tokens are not known"
        )
    return found[-1]


@dataclass(frozen=True)
class _State:
    """One text's run: what the dictionaries read, and what entered the final norm."""

    read: dict[Any, Tensor]
    final: Float[Tensor, "pos d_model"]


@torch.no_grad()
def _run(model: LanguageModel, seen: Sequence[_Seen], norm: nn.Module, ids: Sequence[int], most: int) -> _State:
    read: dict[Any, Tensor] = {}
    final: list[Tensor] = []

    def keep(place: Any) -> Any:
        def note(own: Tensor) -> Tensor:
            read[place] = own.reshape(len(ids), -1)
            return own

        return note

    places = dict.fromkeys(one.placed.read for one in seen)
    with ExitStack() as stack, evaluating(model.module), hooked(model.module, [(p, keep(p)) for p in places]):
        stack.callback(norm.register_forward_pre_hook(lambda _, args: final.append(args[0])).remove)
        model.module(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    return _State(read, final[-1].reshape(len(ids), -1))


class _Seen:
    """Statistics of some features of one dictionary so far."""

    def __init__(self, placed: PlacedDictionary, units: Tensor) -> None:
        self.placed, self.units = placed, units
        self.counts = torch.zeros(len(units))
        self.best: list[list[tuple[float, list[int], int, Tensor]]] = [[] for _ in units]

    def keep(self, state: _State, ids: list[int], most: int) -> None:
        """The largest activation of each feature in one text, among the largest so far."""
        device = self.placed.dictionary.bias.device
        entries = self.placed.entries(state.read[self.placed.read], self.units.to(device))
        rows = entries.dense(self.placed.dictionary.size)[:, self.units.to(device)].cpu()
        self.counts += (rows > 0).sum(0)
        values, where = rows.max(0)
        for i in torch.nonzero(values > 0).flatten().tolist():
            at = int(where[i])
            alike = next((e for e in self.best[i] if _window(e[1], e[2]) == _window(ids, at)), None)
            if alike is not None and alike[0] >= float(values[i]):
                continue  # it would be shown in the same words
            best = [*(e for e in self.best[i] if e is not alike), (float(values[i]), ids, at, state.final[at])]
            self.best[i] = sorted(best, key=lambda entry: -entry[0])[:most]

    def cards(self, model: LanguageModel, norm: nn.Module, total: int, tokens: int) -> list[FeatureCard]:
        """One card for each feature."""
        return [self._card(model, norm, i, total, tokens) for i in range(len(self.units))]

    def _card(self, model: LanguageModel, norm: nn.Module, i: int, total: int, tokens: int) -> FeatureCard:
        unit, dictionary = int(self.units[i]), self.placed.dictionary
        states = torch.stack([entry[3] for entry in self.best[i]]) if self.best[i] else None
        words = model.require_tokenizer()
        logits = _logits(model, norm, added_by(model, self.placed, dictionary.decoder[unit]), states)
        logits = logits[: len(words)]  # rows behind the vocabulary stand for no token
        order = torch.argsort(logits, descending=True, stable=True).tolist()

        def listed(some: Sequence[int]) -> tuple[tuple[str, float], ...]:
            return tuple((str(words.decode([token])), float(logits[token])) for token in some)

        return FeatureCard(
            component=str(Component(self.placed.feature_site, self.placed.layer, unit)),
            dictionary=dictionary.name,
            hook=dictionary.hook_out,
            active_share=float(self.counts[i]) / total,
            active_on=tuple(_example(words, *entry[:3]) for entry in self.best[i]),
            promoted=listed(order[:tokens]),
            suppressed=listed(order[::-1][:tokens]),
            link=link_of(self.placed, unit),
        )


def _window(ids: list[int], at: int) -> tuple[list[int], list[int]]:
    """The tokens that an example shows: up to the active one, and those behind it."""
    return ids[max(0, at - AROUND) : at + 1], ids[at + 1 : at + 1 + AROUND // 2]


def _example(words: Any, value: float, ids: list[int], at: int) -> ActiveOn:
    (*before, token), after = _window(ids, at)
    return ActiveOn(words.decode(before), words.decode([token]), words.decode(after), value)


@torch.no_grad()
def added_by(model: LanguageModel, placed: PlacedDictionary, row: Float[Tensor, "d_out"]) -> Float[Tensor, "d_model"]:
    """Return the addition of a decoder row to the residual stream: itself, or the output matrix's image of it.

    Raises UnsupportedSite where that matrix is not found.
    """
    place = placed.write
    row = row if place.head is None else place.head.padded(row)
    if placed.site is Site.MLP_NEURON:
        matrix: nn.Module | None = place.module
    elif placed.site is Site.HEAD_OUTPUT:
        matrix = place.module if place.side == "input" else _projection(place.module)
    else:
        return row
    if matrix is None:
        raise UnsupportedSite(f"{model.name}: the output projection of layer {placed.layer} is not known by name")
    like = next(matrix.parameters())
    both = torch.stack([row, torch.zeros_like(row)])[None].to(like)
    out: Tensor = matrix(both)[0]
    return (out[0] - out[1]).to(row)


def _projection(attention: nn.Module) -> nn.Module | None:
    """The matrix that an attention module's heads enter, by the names that families give it."""
    named = dict(attention.named_children())
    return output_projection(attention) or next((named[name] for name in PROJECTIONS if name in named), None)


def _logits(
    model: LanguageModel, norm: nn.Module, added: Float[Tensor, "d_model"], states: Tensor | None
) -> Float[Tensor, "vocab"]:
    """How a small addition to the last residual stream moves the logits, the norm's slope taken at these states."""
    head = model.module.get_output_embeddings()
    like = next(head.parameters())
    at = torch.randn(1, len(added), generator=torch.Generator().manual_seed(0)) if states is None else states
    at = at.to(like)
    with torch.enable_grad():
        along = added.to(like).expand_as(at)
        _, moved = jvp(lambda x: norm(x[None])[0], at, along)  # type: ignore[no-untyped-call]
    both = torch.stack([moved.detach().mean(0), torch.zeros_like(added).to(like)])[None]
    with torch.no_grad():
        out: Tensor = head(both)[0]
    return (out[0] - out[1]).float().cpu()
