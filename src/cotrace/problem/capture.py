"""Capture: attention patterns, and the values of any component, in the base run, the donor run or under a set.

Every prompt is run whole and in a row of its own, without its answers: neither packing nor a kept prefix is in the way,
and the model makes its own masks for windows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, prompt_layouts, token_text
from cotrace.batches.segments import donor_pair
from cotrace.components import OF_DICTIONARIES, Component, Site
from cotrace.donors import Counterfactual, Noise, Resample
from cotrace.donors.recorded import perturbed
from cotrace.errors import InputError
from cotrace.interventions import RunningFeatures, forward
from cotrace.interventions.storage import NoRoom, mapped_file
from cotrace.models import LanguageModel, Place
from cotrace.models.hooks import Edit, Edits
from cotrace.problem.batching import Replan, release
from cotrace.problem.divided import DividedProblem
from cotrace.problem.passes import memory_budget
from cotrace.problem.scorer import Scorer
from cotrace.results import members_of
from cotrace.text import escape
from cotrace.text.files import clipped, new_file, shortened
from cotrace.validation import guarded, names_of

T = TypeVar("T")
ATTENTION = "attention"
HEADS = (Site.HEAD_OUTPUT, Site.ATTENTION_PATTERN)
RUNS = ("base", "donor")


@guarded("Captured", fields=False)
@dataclass(frozen=True, eq=False)
class Captured(Mapping[str, T]):
    """Pair id -> what was captured of the pair, with the tokens that its positions are."""

    names: tuple[str, ...]
    """The components asked for; of attention, along the first axis."""
    run: str
    """``base``, ``donor``, or the set in words."""
    tokens: Mapping[str, tuple[str, ...]]
    """Pair id -> the text of each token of the prompt that was run: of the donor's, in the donor run."""
    _values: Mapping[str, T]

    def __getitem__(self, pair: str) -> T:
        return self._values[pair]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Captured({', '.join(self.names)}; run: {self.run}; {len(self)} pairs)"

    def _repr_html_(self) -> str:
        facts = {"components": ", ".join(self.names), "run": self.run, "pairs": len(self)}
        return escape.facts("Captured", facts)


def attention(
    problem: DividedProblem, heads: Any, pairs: Any = None, run: Any = "base", out: str | Path | None = None
) -> Captured[Float[Tensor, "head query key"]]:
    """The attention pattern of each head on each prompt: see ``LanguageProblem.attention``."""
    members = members_of("problem.attention", "heads", heads)
    strange = next((member for member in members if member.site not in HEADS), None)
    if strange is not None or not members:
        raise InputError(
            f"problem.attention: {strange or 'an empty list'} has no attention pattern; give heads such as L3.head0"
        )
    heads = {str(member): replace(member, site=Site.ATTENTION_PATTERN) for member in members}
    wanted = [_Wanted.of(problem.model, member, ATTENTION, row) for row, member in enumerate(heads.values())]
    capture = _Capture(problem, "problem.attention", wanted, pairs, run)
    return capture.made(tuple(heads), out, lambda rooms, pair: rooms[_key(pair, ATTENTION)])


def activations(
    problem: DividedProblem, names: Any, pairs: Any = None, run: Any = "base", out: str | Path | None = None
) -> Captured[dict[str, Float[Tensor, "position feature"]]]:
    """The values of each component on each prompt: see ``LanguageProblem.activations``."""
    members = {str(member): member for member in members_of("problem.activations", "names", names)}
    if not members:
        raise InputError("problem.activations: an empty list; give component names such as L9.head6")
    wanted = [_Wanted.of(problem.model, member, name) for name, member in members.items()]
    capture = _Capture(problem, "problem.activations", wanted, pairs, run)
    return capture.made(tuple(members), out, lambda rooms, pair: {name: rooms[_key(pair, name)] for name in members})


@dataclass(frozen=True)
class _Wanted:
    """One component's values, and where of a pair's rooms they go."""

    place: Place
    unit: int
    name: str
    row: int | None
    member: Component

    @classmethod
    def of(cls, model: LanguageModel, member: Component, name: str, row: int | None = None) -> _Wanted:
        """Raises UnsupportedSite, InputError where the model has no such component."""
        place, unit = model.places(member.site).get(member.layer), member.unit or 0
        if place is None or unit >= place.units:
            raise InputError(f"{model.name} has no {member}; it has {model.space([member.site]).outline}")
        return cls(place, unit, name, row, member)

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the shape of the values on a prompt of so many tokens."""
        return (length, length if self.place.side == "pattern" else self.place.width)


@dataclass(frozen=True)
class _Prompts:
    """Prompts of one part of a problem, and the run that they get."""

    scorer: Scorer
    pairs: Sequence[EncodedPair]
    """Each with the prompt that is run."""
    examples: Sequence[int]
    """The examples that are wanted."""
    mask: Float[Tensor, "n"] | None = None
    noise: Callable[[Layout, Tensor], Tensor] | None = None

    @property
    def chosen(self) -> list[EncodedPair]:
        return [self.pairs[example] for example in self.examples]

    @torch.no_grad()
    def run(self, layout: Layout, reads: Edits) -> None:
        """One forward pass; ``reads`` see what the set has made of the values."""
        scorer, edits = self.scorer, []
        if self.mask is not None:
            edits = list(scorer.edits(self.mask[None], scorer.donors.patches(layout, scorer.spots)))
        with perturbed(scorer.model, layout, self.noise):
            forward(scorer.model, layout, [*edits, *reads], eager=scorer.eager)

    def layouts(self, examples: Sequence[int]) -> list[Layout]:
        """One row for each prompt."""
        return prompt_layouts(self.pairs, examples, replace(self.scorer.packing, packed=False))


class _Capture:
    """Plan of a capture: the runs and the values kept, settled before any pass. Raises InputError."""

    def __init__(self, problem: DividedProblem, called: str, wanted: Sequence[_Wanted], pairs: Any, run: Any) -> None:
        self.problem, self.called, self.wanted = problem, called, wanted
        mask = None if isinstance(run, str) and run in RUNS else _mask(problem, called, run)
        if mask is not None:
            _check_features(problem, called, [one.member for one in wanted], mask)
        self.words = run if mask is None else _set_words(problem, run, mask)
        ids = problem.training.ids if pairs is None else names_of(called, "pairs", pairs)
        _check_pairs(problem, called, ids)
        self.parts = list(problem.counted_parts.values())
        self.prompts = [_prompts(problem, part.scorer, set(ids), self.words, mask) for part in self.parts]
        self.pairs = {one.pair.id: one for prompts in self.prompts for one in prompts.chosen}
        self.order = list(dict.fromkeys(ids))

    def made(
        self, names: tuple[str, ...], out: str | Path | None, view: Callable[[Mapping[str, Tensor], str], T]
    ) -> Captured[T]:
        """Run everything; a file appears under its name once it is complete."""
        tokenizer = self.problem.model.require_tokenizer()
        tokens = {id_: tuple(token_text(tokenizer, t) for t in self.pairs[id_].prompt) for id_ in self.order}
        rooms = self._captured() if out is None else self._streamed(new_file(out, "out"), names, tokens)
        return Captured(names, self.words, tokens, {id_: view(rooms, id_) for id_ in self.order})

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows = 1 + max((one.row or 0) for one in self.wanted)
        found = {}
        for id_ in self.order:
            for one in self.wanted:
                shape = one.shape(len(self.pairs[id_].prompt))
                found[_key(id_, one.name)] = shape if one.row is None else (rows, *shape)
        return found

    def _captured(self) -> dict[str, Tensor]:
        shapes, like = self._shapes(), torch.empty(0, dtype=self.problem.model.dtype)
        needed = sum(torch.Size(shape).numel() for shape in shapes.values()) * like.element_size()
        budget = memory_budget(self.problem.manner["memory"], torch.device("cpu"))
        if needed > budget:
            raise InputError(
                f"{self.called}: {needed:,} bytes for {len(self.order)} pairs, and memory allows {budget:,}: give out="
                "FILE to stream them to safetensors, or name fewer pairs or components"
            )
        return self._filled({name: like.new_empty(shape) for name, shape in shapes.items()})

    def _streamed(self, path: Path, names: Sequence[str], tokens: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        about = {"run": self.words, "model": self.problem.model.name, "task": self.problem.task}
        texts = {"names": json.dumps(names), "tokens": json.dumps(tokens)}
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            rooms = mapped_file(part, self.problem.model.dtype, self._shapes(), about | texts)
            self._filled(rooms)
            part.replace(path)
        except NoRoom as error:
            why = getattr(error.__cause__, "strerror", None) or "no room"
            raise InputError(f"{self.called}: cannot write {path}: {why}; name a file elsewhere with out") from None
        finally:
            part.unlink(missing_ok=True)
        return rooms

    def _filled(self, rooms: dict[str, Tensor]) -> dict[str, Tensor]:
        for part, prompts in zip(self.parts, self.prompts, strict=True):
            if prompts.examples:
                if prompts.scorer.state is not None:
                    prompts.scorer.state.check()
                part.charge(1, prompts.examples)
                self._fill(prompts, prompts.examples, rooms)
        return rooms

    def _fill(self, prompts: _Prompts, examples: Sequence[int], rooms: Mapping[str, Tensor]) -> None:
        """Each batch once; what does not fit in memory, in smaller parts."""
        for layout in prompts.layouts(examples):
            batching = prompts.scorer.batching
            try:
                with batching.passing(layout):
                    prompts.run(layout, self._reads(prompts, layout, rooms))
                continue
            except Replan:
                pass
            release(prompts.scorer.model.device)
            self._fill(prompts, layout.examples, rooms)

    def _reads(self, prompts: _Prompts, layout: Layout, rooms: Mapping[str, Tensor]) -> Edits:
        by_place: dict[Place, list[_Wanted]] = {}
        for one in self.wanted:
            by_place.setdefault(one.place, []).append(one)
        rows = [prompts.pairs[layout.examples[example]] for example in layout.example[:, 0].tolist()]
        return [side for place, some in by_place.items() for side in _readers(place, some, rows, rooms)]


def _readers(
    place: Place, wanted: Sequence[_Wanted], rows: Sequence[EncodedPair], rooms: Mapping[str, Tensor]
) -> Edits:
    """Return the functions that store a place's values; for a dictionary's parts, its encoding of the place's value."""
    if place.dictionary is None:
        return [(place, _reader(place, wanted, rows, rooms))]
    noted = RunningFeatures(place.dictionary, 1)

    def read(own: Tensor) -> Tensor:
        for one in wanted:
            values = noted.value(one.member).reshape(len(rows), -1, place.width).cpu()
            for row, pair in zip(values, rows, strict=True):
                rooms[_key(pair.pair.id, one.name)].copy_(row[: len(pair.prompt)])
        return own

    return [*noted.edits, (place.dictionary.write, read)]


def _reader(place: Place, wanted: Sequence[_Wanted], rows: Sequence[EncodedPair], rooms: Mapping[str, Tensor]) -> Edit:
    """Puts the values of each row where they are wanted, and changes nothing."""

    def read(own: Tensor) -> Tensor:
        values = own.detach().to("cpu")
        if place.side != "pattern":
            values = values.reshape(len(rows), -1, place.units, place.width).transpose(1, 2)
        for row, pair in zip(values, rows, strict=True):
            n = len(pair.prompt)
            for one in wanted:
                room = rooms[_key(pair.pair.id, one.name)]
                mine = row[one.unit, :n, :n] if place.side == "pattern" else row[one.unit, :n]
                (room if one.row is None else room[one.row]).copy_(mine)
        return own

    return read


def _key(pair: str, name: str) -> str:
    """Return the name of a tensor in a file."""
    return f"{pair}/{name}"


def _mask(problem: DividedProblem, called: str, run: Any) -> Float[Tensor, "n"]:
    try:
        mask = problem.masks(run)
    except InputError as error:
        if not isinstance(run, str):
            raise
        raise InputError(f"{called}: run is {shortened(run)}; give base, donor or a set ({error})") from None
    if mask.ndim != 1:
        raise InputError(f"{called}: run is {len(mask)} sets; give one at a time")
    chosen: Tensor = mask
    return chosen


def _check_features(problem: DividedProblem, called: str, wanted: Sequence[Component], mask: Tensor) -> None:
    """Raise InputError for a feature or error of a dictionary that the set changes: no running value of it is left."""
    chosen = [c for c, z in zip(problem.space, mask.bool().tolist(), strict=True) if z and c.site in OF_DICTIONARIES]
    changed = {problem.model.places(c.site)[c.layer].dictionary: c for c in chosen}
    for one in (one for one in wanted if one.site in OF_DICTIONARIES):
        host = changed.get(problem.model.places(one.site)[one.layer].dictionary)
        if host is not None:
            raise InputError(
                f"{called}: the set swaps {host}, after which the value is no sum of {one} and the rest any more; "
                "take run='base', run='donor', or a set of other layers"
            )


def _set_words(problem: DividedProblem, run: Any, mask: Tensor) -> str:
    """The set in words: its components, or how many a mask of the user's own touches."""
    if isinstance(run, Tensor) or not mask.bool().any():
        return f"a mask that touches {int(mask.bool().sum())} of {len(mask)} components"
    chosen = mask if problem.mode == "swap" else 1 - mask
    names = [name for name, one in zip(problem.space.names, chosen.tolist(), strict=True) if one]
    return clipped(f"{problem.mode} {', '.join(names)}")


def _check_pairs(problem: DividedProblem, called: str, ids: Sequence[str]) -> None:
    """Raise InputError for a pair that the problem does not have, or keeps apart, with the reason."""
    known = {id_ for part in problem.counted_parts.values() for id_ in part.ids}
    strange = next((id_ for id_ in ids if id_ not in known), None)
    if strange is None and ids:
        return
    if strange is None:
        raise InputError(f"{called}: an empty list of pairs; give pair ids, or leave pairs out for all in training")
    refused = {one.id: one.reason for one in problem.refused}
    if strange in refused:
        raise InputError(f"{called}: the pair {strange!r} was refused: {refused[strange]}")
    if any(one.pair.id == strange for one in problem.encoding.pairs):
        raise InputError(f"{called}: the pair {strange!r} is kept for the audit; give pairs of training or held out")
    raise InputError(f"{called}: there is no pair {strange!r}; give ids of problem.training.ids or problem.heldout.ids")


def _prompts(
    problem: DividedProblem, scorer: Scorer, ids: set[str], run: str, mask: Float[Tensor, "n"] | None
) -> _Prompts:
    """The prompts of one part; of several draws of noise the first. Raises InputError where donors are no run."""
    examples = [e for e, pair in enumerate(scorer.pairs) if pair.pair.id in ids]
    if run != "donor":
        return _Prompts(scorer, scorer.pairs, examples, mask)
    source = problem.donors
    if not isinstance(source, Counterfactual | Noise | Resample):
        raise InputError(
            f"run='donor': donors={source.name!r} are values that no prompt gave, so there is no donor run; "
            "take run='base' or a set"
        )
    pairs = [scorer.pairs[e] for e in examples]
    noise = source.perturb(problem.model, pairs, scorer.packing) if isinstance(source, Noise) and pairs else None
    return _Prompts(scorer, [donor_pair(pair) for pair in pairs], range(len(pairs)), noise=noise)
