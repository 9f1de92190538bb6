"""``solve``: runs a search under limits and makes its frontier; what the effects belong to goes with it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cotrace.components import sign_of
from cotrace.errors import DegenerateError, InputError
from cotrace.problem.protocol import MASK_ELEMENTS, Problem, chosen_of, keys_of, mask_of
from cotrace.results import Frontier, Selection
from cotrace.results.effects import EffectTable
from cotrace.search._cost_weights import weight_vector
from cotrace.search.archive import Archive, Entry, SearchState
from cotrace.search.hyperparameters import at_least
from cotrace.search.progress import Shown, followed
from cotrace.search.sets import SetFunction, bounds_of, measured
from cotrace.validation import check_fields, check_kind

_MEASURED: WeakKeyDictionary[EffectTable, ref[Problem]] = WeakKeyDictionary()


def remember(problem: Problem, *tables: EffectTable | None) -> None:
    """Remember the problem of these effects, unless it takes no weak references (``__slots__``)."""
    try:
        known = ref(problem)
    except TypeError:
        return
    for table in tables:
        if table is not None:
            _MEASURED[table] = known


def is_of(table: EffectTable, problem: Problem) -> bool:
    """Whether the effects are known to be of this problem; those read from a file are not known to be of any."""
    known = _MEASURED.get(table)
    return known is not None and known() is problem


@runtime_checkable
class Search(Protocol):
    """Hyperparameters at construction; called with a problem it returns a frontier."""

    name: ClassVar[str]

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """The states of the search, one after each step; goes on from ``state`` as if it had never stopped.

        Args:
            problem: The problem that is searched.
            state: State to go on from; None to begin.
        """

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents that a search of n components will cost, or at most cost."""

    def __call__(self, problem: Problem, progress: Shown = None) -> Frontier:
        """The best selection found for every k."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to stop; checked after every step, so the last step is always finished."""

    forward_equivalents: float | None = None
    """Stop once so much is spent; None for no bound."""
    elapsed_s: float | None = None
    """Stop once so many seconds have passed; None for no bound."""
    effect: float | None = None
    """Stop once a set of any size reaches this effect, in the direction that the problem prefers."""

    def __post_init__(self) -> None:
        check_fields("Limits", self)
        for name in ("forward_equivalents", "elapsed_s"):
            if getattr(self, name) is not None:
                at_least("Limits", name, getattr(self, name), 0)
        if self.effect is not None and not math.isfinite(self.effect):
            raise InputError(f"Limits: effect is {self.effect}; give a finite number")

    def reached(self, state: SearchState, elapsed_s: float, sign: float) -> bool:
        """Whether the search has come to one of the limits.

        Args:
            state: State of the search.
            elapsed_s: Seconds since its start.
            sign: 1 where larger effects are preferred, else -1.
        """
        over_cost = self.forward_equivalents is not None and state.spent >= self.forward_equivalents
        over_time = self.elapsed_s is not None and elapsed_s >= self.elapsed_s
        return over_cost or over_time or (self.effect is not None and _peak(state.archive) >= sign * self.effect)


def _peak(archive: Archive) -> float:
    return max((entry.gain for size in archive.sizes if (entry := archive.feasible(size))), default=-float("inf"))


def solve(
    search: Search,
    problem: Problem,
    *,
    state: SearchState | None = None,
    start: Frontier | None = None,
    limits: Limits | None = None,
    progress: Shown = None,
) -> Frontier:
    """Run a search to its end or to a limit. ``state`` resumes it; ``start`` warms it with another frontier's sets;
    ``progress`` is called after every step, or True for a bar (None: in notebooks only).

    Where a problem lets searches see some of its pairs only (``searched``), the sets that they find are evaluated on
    all. Raises InputError for a start from another space, NonFiniteError, DegenerateError where no set was selected.

    Args:
        search: The search.
        problem: The problem.
        limits: Where to stop; None for the search's own end.
    """
    check_kind(search.name, "problem", problem, Problem)
    began, sign = time.perf_counter(), sign_of(problem.direction)
    seen = searched(problem)
    if start is not None and state is None:
        state = warm(search, seen, start)
    last = state
    with followed(search, seen, progress) as tell:
        for last in search.steps(seen, state):
            if tell is not None:
                tell(last)
            if limits is not None and limits.reached(last, time.perf_counter() - began, sign):
                break
    if last is None:
        raise DegenerateError(f"{search.name} took no step: ask for a larger max size")
    return frontier(
        problem,
        last,
        max_size=getattr(search, "max_size", None),
        sizes=getattr(search, "sizes", None),
        elapsed_s=time.perf_counter() - began,
    )


def searched(problem: Problem) -> Problem:
    """Return the problem that searches see: itself, or the same on some of its pairs."""
    seen: Problem = getattr(problem, "searched", problem)
    return seen


def on_all_pairs(problem: Problem, state: SearchState, sizes: Sequence[int], most: int) -> SearchState:
    """The state with the best sets of these sizes evaluated on all pairs, and those sets only; the cost is counted."""
    n = len(problem.space)
    found = {entry.key: entry for entry in _best(problem, state, sizes, most)}
    function = SetFunction(state.search, problem, replace(state, archive=Archive(n)))
    if found:
        function.scores(torch.stack([chosen_of(key, n) for key in found]))
    archive = Archive(n)
    for entry in function.archive:
        archive.add(entry._replace(spent=found[entry.key].spent))
    return replace(state, archive=archive, spent=function.spent)


def _best(problem: Problem, state: SearchState, sizes: Sequence[int], most: int) -> Iterator[Entry]:
    """The best set of each of these sizes, and those best for their cost where a search was given weights."""
    for size in sizes:
        entry = state.archive.feasible(size) or state.archive.best(size)
        if entry is not None:
            yield entry
    if weights := state.numbers.get("cost_weights"):
        yield from (entry for _, entry in state.archive.by_cost(weight_vector(problem.space, weights), most))


def warm(search: Search, problem: Problem, start: Frontier) -> SearchState:
    """A first state whose archive holds the other frontier's sets, evaluated here. Raises InputError."""
    if start.space.components != problem.space.components or start.mode != problem.mode:
        raise InputError(
            f"a warm start from another space: it has {start.space.outline} in mode {start.mode}, "
            f"this problem {problem.space.outline} in mode {problem.mode}; search afresh or rebuild the problem"
        )
    function = SetFunction(search.name, problem)
    chosen = torch.from_numpy(np.stack([problem.space.indicator(selection.members) for selection in start]))
    function.scores(chosen)
    return function.state("start", 0, 0)


def frontier(
    problem: Problem,
    state: SearchState,
    *,
    max_size: int | None = None,
    sizes: Collection[int] | None = None,
    elapsed_s: float | None = None,
) -> Frontier:
    """The best set of every size (or of these only) in a state's archive, with held-out effects.

    Where the state is of a search on some of the problem's pairs, its best sets are evaluated on all of them here.
    Raises DegenerateError.

    Args:
        problem: The problem that was searched.
        state: State of the search.
        max_size: Largest size; None for all.
        sizes: The only sizes; None for all.
        elapsed_s: Seconds of the search, for the record.
    """
    most = max_size or len(problem.space)
    visited = [size for size in state.archive.sizes if 1 <= size <= most and (sizes is None or size in sizes)]
    if searched(problem) is not problem:
        state = on_all_pairs(problem, state, visited, most)
    kept = [size for size in visited if state.archive.feasible(size)]
    advice = str(state.numbers.get("advice", ""))
    if visited and not kept:
        raise DegenerateError(_infeasible(problem, state.search))
    if not kept:
        raise DegenerateError(advice or f"{state.search} found no set of 1..{most} components: raise max_size")
    full = problem_value(problem, torch.ones(1, len(problem.space), dtype=torch.bool), state.archive)
    unseen = problem.heldout
    chosen = _chosen(state, kept, len(problem.space))
    levels, table = ([None] * len(kept), None) if unseen is None else values_and_effects(unseen, chosen)
    # Whatever is chosen again among the stored sets keeps the constraints: the others are left out.
    known = state.archive.effects(feasible=True)
    remember(problem, known, table)
    return Frontier(
        search=state.search,
        mode=problem.mode,
        direction=problem.direction,
        metric=problem.metric,
        task=problem.task,
        **getattr(problem, "question", {}),
        space=problem.space,
        selections=_selections(problem, [_feasible(state, size) for size in kept], chosen, levels),
        forward_equivalents=state.spent,
        full_effect=full,
        full_effect_heldout=None if unseen is None else values(unseen, torch.ones(1, len(problem.space)).bool())[0],
        full_is_clear=is_clear(problem),
        full_is_clear_heldout=is_clear(unseen),
        reported_before=reported_base(problem),
        reported_before_heldout=reported_base(unseen),
        target=getattr(problem, "target", None),
        elapsed_s=elapsed_s,
        summary=f"{problem.summary} ({advice})" if advice else problem.summary,
        bounds=bounds_of(problem),
        infeasible_sizes=tuple(size for size in visited if size not in kept),
        effects=known,
        effects_heldout=table,
        cost_weights=state.numbers.get("cost_weights", {}),
        by_cost=_by_cost(problem, state, most),
    )


def _by_cost(problem: Problem, state: SearchState, most: int) -> tuple[Selection, ...]:
    """The sets of at most so many that are best for their weighted cost, where a search was given weights."""
    if not (weights := state.numbers.get("cost_weights")):
        return ()
    entries = [entry for _, entry in state.archive.by_cost(weight_vector(problem.space, weights), most)]
    if not entries:
        return ()
    chosen = torch.stack([chosen_of(entry.key, len(problem.space)) for entry in entries])
    unseen: Sequence[float | None] = [None] * len(entries)
    if problem.heldout is not None:
        unseen = values(problem.heldout, chosen)
    return _selections(problem, entries, chosen, unseen)


def _chosen(state: SearchState, sizes: list[int], n: int) -> Bool[Tensor, "set n"]:
    """The best set of each of these sizes."""
    return torch.stack([chosen_of(_feasible(state, size).key, n) for size in sizes])


def _feasible(state: SearchState, size: int) -> Entry:
    entry = state.archive.feasible(size)
    assert entry is not None, "sizes are those that have one"
    return entry


def _infeasible(problem: Problem, search: str) -> str:
    bounds = "; ".join(bound.words for bound in bounds_of(problem))
    return f"{search} found no set of any size that keeps the constraints ({bounds}): allow more, or search longer"


def _selections(
    problem: Problem, entries: Sequence[Entry], chosen: Bool[Tensor, "set n"], unseen: Sequence[float | None]
) -> tuple[Selection, ...]:
    sign = sign_of(problem.direction)
    space = problem.space
    nothing = [None] * len(entries)
    sides = nothing if problem.heldout is None or not bounds_of(problem) else side_values(problem.heldout, chosen)
    levels = [reported(part, chosen) or nothing for part in (problem, problem.heldout)]
    return tuple(
        Selection(
            members=tuple(space[i] for i in row.nonzero()[:, 0].tolist()),
            effect=sign * entry.gain,
            effect_heldout=heldout,
            forward_equivalents=entry.spent,
            reported=level,
            reported_heldout=level_heldout,
            side=entry.side or None,
            side_heldout=side,
        )
        for entry, row, heldout, side, level, level_heldout in zip(entries, chosen, unseen, sides, *levels, strict=True)
    )


def values(problem: Problem, chosen: Bool[Tensor, "set n"]) -> list[float]:
    """The problem's own values of chosen sets, in batches."""
    found: list[float] = []
    for rows in torch.split(chosen, max(1, MASK_ELEMENTS // chosen.shape[1])):
        found += problem.value(mask_of(problem, rows.float())).double().tolist()
    return found


def values_and_effects(problem: Problem, chosen: Bool[Tensor, "set n"]) -> tuple[list[float], EffectTable | None]:
    """The same, and per-example effects where one evaluation gives both and a batch holds them all."""
    if len(chosen) * max(chosen.shape[1], problem.size) > MASK_ELEMENTS:
        return values(problem, chosen), None
    found, effects = measured(problem, mask_of(problem, chosen.float()))
    table = None if effects is None else EffectTable.of(chosen.numpy(), effects.detach().float().cpu().numpy())
    return found.double().tolist(), table


def side_values(problem: Problem, chosen: Bool[Tensor, "set n"]) -> list[tuple[float, ...]]:
    """The values that constraints bound, of chosen sets, in batches."""
    found: list[tuple[float, ...]] = []
    for rows in torch.split(chosen, max(1, MASK_ELEMENTS // chosen.shape[1])):
        found += map(tuple, problem.side_values(mask_of(problem, rows.float())).double().tolist())
    return found


def reported(problem: Problem | None, chosen: Bool[Tensor, "set n"]) -> list[float] | None:
    """The metric as people read it, of chosen sets, where the problem's value is a surrogate of it; not counted."""
    if problem is None or not getattr(problem, "surrogate", False):
        return None
    found: list[float] = []
    for rows in torch.split(chosen, max(1, MASK_ELEMENTS // chosen.shape[1])):
        found += problem.reported(mask_of(problem, rows.float())).double().tolist()  # type: ignore[attr-defined]
    return found


def reported_base(problem: Problem | None) -> float | None:
    """The same of the base run, which no forward is needed for."""
    known = problem is not None and getattr(problem, "surrogate", False)
    return getattr(problem, "reported_base", None) if known else None


def is_clear(problem: Problem | None) -> bool:
    """Whether these pairs show that everything at once moves the metric; so where the problem does not say."""
    return bool(getattr(problem, "full_is_clear", True))


def problem_value(problem: Problem, chosen: Bool[Tensor, "1 n"], archive: Archive) -> float:
    """Value of one set: from the archive where it is there, otherwise computed (and not counted as the search's)."""
    known = archive.score(keys_of(chosen)[0])
    if known is None or bounds_of(problem):
        return values(problem, chosen)[0]
    return sign_of(problem.direction) * known
