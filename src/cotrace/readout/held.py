"""Held runs: some components are swapped, and one may be held at the value that it has in another run.

That is what path patching needs: with B held at the value that it has when A is swapped, and all else as in the base
run, the metric moves by what A does through B (Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al. 2023, arXiv
2304.05969).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cotrace.batches import Layout
from cotrace.components import Component, Site
from cotrace.interventions import Entry, LayerInputs, RunningFeatures
from cotrace.models import Place
from cotrace.models.attention_interface import AttentionCall, attention_handler
from cotrace.models.hooks import Edit, Edits
from cotrace.models.places import PlacedDictionary
from cotrace.problem.batching import Replan, release
from cotrace.problem.scorer import Scorer

Part = Literal["all", "query", "key", "value"]
"""The part of a component that is held: its whole output, or a head's output with another query, key or value."""
PARTS: tuple[Part, ...] = ("query", "key", "value")
Swapped = frozenset[Component]


@dataclass(frozen=True)
class Hold:
    """One component takes the value that it has when some others are swapped."""

    member: Component
    source: Swapped
    part: Part = "all"


@dataclass(frozen=True)
class Run:
    """Components that take the donor's value, and at most one that is held."""

    swapped: Swapped = frozenset()
    hold: Hold | None = None


def plain_and_held(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs in which nothing is held, with those that others take values from; and those others. Each once."""
    sources = [Run(run.hold.source) for run in runs if run.hold is not None]
    plain = dict.fromkeys([*sources, *(run for run in runs if run.hold is None)])
    return list(plain), list(dict.fromkeys(run for run in runs if run.hold is not None))


def passes_of(runs: Sequence[Run]) -> int:
    """Forward passes over all pairs that these runs take together."""
    return sum(map(len, plain_and_held(runs)))


Key = tuple[Swapped, Component, Part]
Values = dict[Key, Tensor]


def over_layouts(scorer: Scorer, work: Callable[[Layout], None], tick: Callable[[int], None] | None = None) -> None:
    """Do a work on every batch of a scorer's pairs; one that does not fit in memory is done in smaller parts.

    ``tick`` is told how many examples are done.
    """
    if scorer.state is not None:
        scorer.state.check()
    done = 0
    for layout in scorer.layouts(None):
        _work(scorer, work, layout)
        done += len(layout.examples)
        if tick is not None:
            tick(done)


def _work(scorer: Scorer, work: Callable[[Layout], None], layout: Layout) -> None:
    try:
        work(layout)
        return
    except Replan:
        pass
    release(scorer.model.device)
    for smaller in scorer.layouts(layout.examples):
        _work(scorer, work, smaller)


@dataclass(eq=False)
class HeldRuns:
    """Carries such runs out on the pairs of a scorer, as many side by side as its batches hold."""

    scorer: Scorer
    _places: dict[Component, Place] = field(default_factory=dict)

    @torch.no_grad()
    def scores(
        self, runs: Sequence[Run], tick: Callable[[int], None] | None = None
    ) -> Float[Tensor, "run example answer"]:
        """Scores of every answer in each run, examples in file order; ``tick`` is told how many examples are done."""
        scorer = self.scorer
        table = torch.zeros(len(runs), len(scorer.pairs), scorer.columns, dtype=scorer.model.compute_dtype)

        def fill(layout: Layout) -> None:
            found = sum(self._pass(runs, one) for one in layout.passes)
            table[:, torch.tensor(layout.examples)] = torch.as_tensor(found)

        over_layouts(scorer, fill, tick)
        return table

    def parts(self, member: Component) -> tuple[Part, ...]:
        """Return the parts of a head that can be held alone: a pattern has no value, other attention has none."""
        if member.site is Site.ATTENTION_PATTERN:
            return PARTS[:2]
        heads = member.site in (Site.HEAD_OUTPUT, Site.KV_GROUP)
        return PARTS if heads and self.place(member).side == "attention" else ()

    def place(self, member: Component) -> Place:
        """Return the place of a component."""
        if member not in self._places:
            self._places[member] = self.scorer.model.places(member.site)[member.layer]
        return self._places[member]

    def _pass(self, runs: Sequence[Run], layout: Layout) -> Float[Tensor, "run example answer"]:
        """First the runs in which nothing is held, and what others take from them; then those others."""
        layout = replace(layout, beside=()) if layout.beside else layout
        wanted: dict[Swapped, list[tuple[Component, Part]]] = defaultdict(list)
        for hold in dict.fromkeys(run.hold for run in runs):
            if hold is not None:
                wanted[hold.source].append((hold.member, hold.part))
        plain, held = plain_and_held(runs)
        starts = {run: _first(run, [member for member, _ in wanted.get(run.swapped, ())]) for run in plain}
        starts |= {run: _first(run) for run in held}
        layer_inputs, values = self._layer_inputs(set(starts.values()), layout), Values()
        found: dict[Run, Tensor] = {}
        for some, entry in self._chunks(plain, starts, layer_inputs, layout):
            found |= zip(some, self._run(some, entry, layout, _Recorder(self, some, wanted, values)), strict=True)
        for some, entry in self._chunks(held, starts, layer_inputs, layout):
            found |= zip(some, self._run(some, entry, layout, _Holder(self, some, values, layout)), strict=True)
        return torch.stack([found[run] for run in runs])

    def _layer_inputs(self, starts: set[int], layout: Layout) -> LayerInputs:
        """The stream that enters each layer in which some run begins to differ, where runs may start there."""
        layer_inputs = LayerInputs(starts - {0} if self.scorer.packing.shortcuts else ())
        if layer_inputs.wanted:
            with self.scorer.batching.passing(layout):
                self.scorer.run(self._masks([Run()]), layout, layer_inputs=layer_inputs)
        return layer_inputs

    def _chunks(
        self, runs: Sequence[Run], starts: Mapping[Run, int], layer_inputs: LayerInputs, layout: Layout
    ) -> Iterator[tuple[Sequence[Run], Entry | None]]:
        """Runs that fit in one forward pass and start in one layer, with the stream that enters it."""
        step = max(1, self.scorer.batching.tokens // layout.cells)
        groups: dict[int, list[Run]] = defaultdict(list)
        for run in runs:
            groups[starts[run] if layer_inputs.wanted else 0].append(run)
        for layer, some in sorted(groups.items()):
            for at in range(0, len(some), step):
                yield some[at : at + step], layer_inputs.entries.get(layer)

    def _run(
        self, runs: Sequence[Run], entry: Entry | None, layout: Layout, extra: _Recorder | _Holder
    ) -> Float[Tensor, "run example answer"]:
        scorer = self.scorer
        with scorer.batching.passing(layout, len(runs)), extra.attention():
            edits = extra.edits()
            return scorer.run(self._masks(runs), layout, entry=entry, more=edits, first=extra.notes())

    def _masks(self, runs: Sequence[Run]) -> Float[Tensor, "run n"]:
        space, kind = self.scorer.space, self.scorer.model.compute_dtype
        return torch.stack([torch.from_numpy(space.indicator(run.swapped)).to(kind) for run in runs])


def _first(run: Run, taken: Iterable[Component] = ()) -> int:
    """The lowest layer in which a run differs from the base run, or in which something is taken from it."""
    held = [] if run.hold is None else [run.hold.member]
    return min((member.layer for member in (*run.swapped, *held, *taken)), default=0)


class _Attending:
    """Changes of the queries, keys and values of attention modules, if any."""

    def __init__(self, held: HeldRuns, copies: int) -> None:
        self.held, self.copies = held, copies
        self.heads: dict[nn.Module, list[tuple[int, Key]]] = defaultdict(list)
        """Attention module -> (copy, what is taken or put there)."""
        self.noted: dict[PlacedDictionary, RunningFeatures] = {}
        """Dictionaries of whose features or error something is taken or put."""

    def notes(self) -> Edits:
        """Edits that change nothing, before all others."""
        return [edit for one in self.noted.values() for edit in one.edits]

    def at(self, place: Place) -> Place:
        """Return the place whose value is changed; for a dictionary's parts the one it writes, and note its values."""
        placed = place.dictionary
        if placed is None:
            return place
        self.noted.setdefault(placed, RunningFeatures(placed, self.copies))
        write: Place = placed.write
        return write

    def attention(self) -> AbstractContextManager[None]:
        """Put the changes in force while the model runs."""
        scorer = self.held.scorer
        if not self.heads:
            return nullcontext()
        return attention_handler(scorer.model.module, self.handle, eager=scorer.eager)

    def handle(self, module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """The call, looked at or changed."""
        raise NotImplementedError

    def _of(self, member: Component, count: int) -> slice:
        """Return the slice of a head or group among so many query heads, or among the fewer key heads."""
        unit, units = member.unit or 0, self.held.place(member).units
        return slice(unit * count // units, -(-(unit + 1) * count // units))

    def _part(self, given: Tensor, member: Component) -> Float[Tensor, "copy row head pos d"]:
        """A member's part of queries, keys or values; a view."""
        return given.reshape(self.copies, -1, *given.shape[1:])[:, :, self._of(member, given.shape[1])]


class _Recorder(_Attending):
    """Keeps what others are to take from runs in which nothing is held."""

    def __init__(
        self,
        held: HeldRuns,
        runs: Sequence[Run],
        wanted: dict[Swapped, list[tuple[Component, Part]]],
        values: Values,
    ) -> None:
        super().__init__(held, len(runs))
        self.values = values
        self.wholes: dict[Place, list[tuple[int, Key]]] = defaultdict(list)
        for copy, run in enumerate(runs):
            for member, part in wanted.get(run.swapped, ()):
                place, key = held.place(member), (run.swapped, member, part)
                if part == "all":
                    self.wholes[place].append((copy, key))
                else:
                    self.heads[place.module].append((copy, key))

    def edits(self) -> list[tuple[Place, Edit]]:
        return [(self.at(place), self._keep(place, entries)) for place, entries in self.wholes.items()]

    def _keep(self, place: Place, entries: Sequence[tuple[int, Key]]) -> Edit:
        def keep(own: Tensor) -> Tensor:
            for copy, key in entries:
                self.values[key] = self._value(place, own, key[1], copy).clone()
            return own

        return keep

    def _value(self, place: Place, own: Tensor, member: Component, copy: int) -> Tensor:
        if place.dictionary is not None:
            return self.noted[place.dictionary].value(member)[copy]
        return by_unit(place, own, self.copies)[copy, member.unit or 0]

    def handle(self, module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        for copy, key in self.heads.get(module, ()):
            given = {"query": call.query, "key": call.key, "value": call.value}[key[2]]
            self.values[key] = self._part(given, key[1])[copy].clone()
        return call.original()


class _Holder(_Attending):
    """Puts values of other runs in."""

    def __init__(self, held: HeldRuns, runs: Sequence[Run], values: Values, layout: Layout) -> None:
        super().__init__(held, len(runs))
        self.values, self.layout = values, layout
        self.wholes: dict[Place, list[tuple[int, Key]]] = defaultdict(list)
        for copy, run in enumerate(runs):
            assert run.hold is not None
            place, key = held.place(run.hold.member), (run.hold.source, run.hold.member, run.hold.part)
            if run.hold.part == "all":
                self.wholes[place].append((copy, key))
            else:
                self.heads[place.module].append((copy, key))

    def edits(self) -> list[tuple[Place, Edit]]:
        return [
            (self.at(place), (self._put if place.dictionary is None else self._add)(place, entries))
            for place, entries in self.wholes.items()
        ]

    def _add(self, place: Place, entries: Sequence[tuple[int, Key]]) -> Edit:
        """Add the change of a feature or an error to the place's value."""

        def add(own: Tensor) -> Tensor:
            noted, changed = self.noted[place.dictionary], _own(own)
            rows = changed.view(self.copies, -1, noted.placed.dictionary.d_out)
            for copy, key in entries:
                value = noted.value(key[1])[copy]
                move = self._where(key[1], place.side, value, self.values[key]) - value
                rows[copy] += noted.added(key[1], move).to(own)
            return changed

        return add

    def _put(self, place: Place, entries: Sequence[tuple[int, Key]]) -> Edit:
        def put(own: Tensor) -> Tensor:
            changed = _own(own)
            units = by_unit(place, changed, self.copies)
            for copy, key in entries:
                at = copy, key[1].unit or 0
                units[at] = self._where(key[1], place.side, units[at], self.values[key])
            return changed

        return put

    def _where(self, member: Component, side: str, own: Tensor, other: Tensor) -> Tensor:
        """The other value at the positions of the member's role, which are all unless it names one."""
        if member.role == "all":
            return other
        flags = self.layout.roles[member.role].to(own.device)
        return torch.where(flags[..., None] if side == "pattern" else flags.reshape(-1, 1), other, own)

    def handle(self, module: nn.Module, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        output, weights = call.original()
        if not (entries := self.heads.get(module, ())):
            return output, weights
        given = {"query": _own(call.query), "key": _own(call.key), "value": _own(call.value)}
        for copy, key in entries:
            self._part(given[key[2]], key[1])[copy] = self.values[key]
        again = call.again(given["query"], given["key"], given["value"])[0]
        output = _own(output)
        own, new = (t.reshape(self.copies, -1, *t.shape[-2:]).transpose(1, 2) for t in (output, again))
        for copy, (_, member, _) in entries:
            at = copy, self._of(member, own.shape[1])
            own[at] = self._where(member, "attention", own[at], new[at])
        return output, weights


def by_unit(place: Place, value: Tensor, copies: int) -> Float[Tensor, "copy unit ..."]:
    """Return the value at a place by copy and unit: [token, width] of each, of a pattern [row, query, key].

    A view where the value is contiguous.
    """
    if place.side == "pattern":
        return value.reshape(copies, -1, *value.shape[1:]).transpose(1, 2)
    return value.reshape(copies, -1, place.units, place.width).transpose(1, 2)


def _own(value: Tensor) -> Tensor:
    """A copy that may be written to through views."""
    return value.clone(memory_format=torch.contiguous_format)
