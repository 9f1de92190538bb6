"""``solve``: runs a search under limits and makes its frontier; what the effects belong to goes with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from cotrace.components import sign_of
from cotrace.errors import DegenerateError, InputError, unknown
from cotrace.objectives import TRANSFORMS
from cotrace.problem.protocol import MASK_ELEMENTS, Problem, attribute, chosen_of, keys_of, mask_of
from cotrace.results import Frontier, Selection
from cotrace.results.effects import EffectTable
from cotrace.search._cost_weights import weight_vector
from cotrace.search.archive import Archive, Entry, SearchState
from cotrace.search.hyperparameters import at_least
from cotrace.search.progress import Shown, followed
from cotrace.search.sets import SetFunction
from cotrace.validation import check_fields, check_kind, check_seed, listed

_MEASURED: WeakKeyDictionary[EffectTable, ref[Problem]] = WeakKeyDictionary()


def remember(problem: Problem, *tables: EffectTable | None) -> None:
    """Remember the problem of these effects."""
    for table in tables:
        if table is not None:
            _MEASURED[table] = ref(problem)


def is_of(table: EffectTable, problem: Problem) -> bool:
    """Whether the effects are known to be of this problem; those read from a file are not known to be of any."""
    known = _MEASURED.get(table)
    return known is not None and known() is problem


@dataclass(frozen=True, kw_only=True)
class Search:
    """Hyperparameters at construction; called with a problem it returns a frontier.

    A search of your own is a frozen dataclass that inherits from it, with a ``name``, ``steps`` and ``predicted_cost``.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Raise InputError where a setting is of another kind than declared, or one that searches share is wrong."""
        check_fields(self.name, self)
        for setting in self.settings:  # an array has no truth value, and a range or a set is no JSON
            object.__setattr__(self, setting, listed(getattr(self, setting)))
        check_seed(self.name, self.seed)
        if self.max_size is not None and self.max_size < 1:
            raise InputError(f"{self.name}: max size {self.max_size} is outside 1..N; ask for at least 1 component")
        if self.transformation is not None and self.transformation not in TRANSFORMS:
            raise unknown("transformation", self.transformation, TRANSFORMS)

    @attribute
    def max_size(self) -> int | None:
        """Largest k; None for N, and where sizes are none of its settings."""
        return None

    @attribute
    def sizes(self) -> tuple[int, ...] | None:
        """The only sizes to look at; None where it looks at all."""
        return None

    @attribute
    def cost_weights(self) -> Mapping[str, float] | str | None:
        """Site -> cost of one component, by which it looks for the best of every cost; None where it does not."""
        return None

    @attribute
    def transformation(self) -> str | None:
        """Name of the metric transformation; None for the metric's own."""
        return None

    @attribute
    def seed(self) -> int:
        """Seed of its draws."""
        return 0

    @property
    def settings(self) -> list[str]:
        """The names of its hyperparameters."""
        return [field.name for field in fields(self)]

    def set(self, **settings: Any) -> Search:
        """The same search with these settings, those that it does not have left out.

        Args:
            settings: Name -> value.
        """
        return replace(self, **{name: value for name, value in settings.items() if name in self.settings})

    def steps(self, problem: Problem, state: SearchState | None = None) -> Iterator[SearchState]:
        """The states of the search, one after each step; goes on from ``state`` as if it had never stopped.

        Args:
            problem: The problem that is searched.
            state: State to go on from; None to begin.
        """
        raise NotImplementedError

    def predicted_cost(self, n: int) -> float:
        """Forward-equivalents that a search will cost, or at most cost.

        Args:
            n: Components of the space.
        """
        raise NotImplementedError

    def most_cost(self, n: int) -> float:
        """Forward-equivalents that it costs at most: those predicted, where a search does not say.

        Args:
            n: Components of the space.
        """
        return self.predicted_cost(n)

    def __call__(self, problem: Problem, progress: Shown = None) -> Frontier:
        """The best selection found for every k."""
        return solve(self, problem, progress=progress)


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
    seen = problem.searched
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
        max_size=search.max_size,
        sizes=search.sizes,
        elapsed_s=time.perf_counter() - began,
    )


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
    if problem.searched is not problem:
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
        **problem.question,
        space=problem.space,
        selections=_selections(problem, [_feasible(state, size) for size in kept], chosen, levels),
        forward_equivalents=state.spent,
        full_effect=full,
        full_effect_heldout=None if unseen is None else values(unseen, torch.ones(1, len(problem.space)).bool())[0],
        full_is_clear=problem.full_is_clear,
        full_is_clear_heldout=unseen is None or unseen.full_is_clear,
        reported_before=reported_base(problem),
        reported_before_heldout=reported_base(unseen),
        target=problem.target,
        elapsed_s=elapsed_s,
        summary=f"{problem.summary} ({advice})" if advice else problem.summary,
        bounds=problem.bounds,
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
    bounds = "; ".join(bound.words for bound in problem.bounds)
    return f"{search} found no set of any size that keeps the constraints ({bounds}): allow more, or search longer"


def _selections(
    problem: Problem, entries: Sequence[Entry], chosen: Bool[Tensor, "set n"], unseen: Sequence[float | None]
) -> tuple[Selection, ...]:
    sign = sign_of(problem.direction)
    space = problem.space
    nothing = [None] * len(entries)
    sides = nothing if problem.heldout is None or not problem.bounds else side_values(problem.heldout, chosen)
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
    """The problem's own values of chosen sets."""
    return _in_batches(problem, chosen, problem.value)


def _in_batches(problem: Problem, chosen: Bool[Tensor, "set n"], measure: Callable[[Tensor], Tensor]) -> list[Any]:
    """Measure the masks of chosen sets in batches."""
    found: list[Any] = []
    for rows in torch.split(chosen, max(1, MASK_ELEMENTS // chosen.shape[1])):
        found += measure(mask_of(problem, rows.float())).double().tolist()
    return found


def values_and_effects(problem: Problem, chosen: Bool[Tensor, "set n"]) -> tuple[list[float], EffectTable | None]:
    """The same, and per-example effects where one evaluation gives both and a batch holds them all."""
    if len(chosen) * max(chosen.shape[1], problem.size) > MASK_ELEMENTS:
        return values(problem, chosen), None
    found, effects = problem.value_and_effects(mask_of(problem, chosen.float()))
    table = None if effects is None else EffectTable.of(chosen.numpy(), effects.detach().float().cpu().numpy())
    return found.double().tolist(), table


def side_values(problem: Problem, chosen: Bool[Tensor, "set n"]) -> list[tuple[float, ...]]:
    """The values that constraints bound, of chosen sets."""
    return list(map(tuple, _in_batches(problem, chosen, problem.side_values)))


def reported(problem: Problem | None, chosen: Bool[Tensor, "set n"]) -> list[float] | None:
    """The metric as people read it, of chosen sets, where the problem's value is a surrogate of it; not counted."""
    return _in_batches(problem, chosen, problem.reported) if problem is not None and problem.surrogate else None


def reported_base(problem: Problem | None) -> float | None:
    """The same of the base run, which no forward is needed for."""
    return problem.reported_base if problem is not None and problem.surrogate else None


def problem_value(problem: Problem, chosen: Bool[Tensor, "1 n"], archive: Archive) -> float:
    """Value of one set: from the archive where it is there, otherwise computed (and not counted as the search's)."""
    known = archive.score(keys_of(chosen)[0])
    if known is None or problem.bounds:
        return values(problem, chosen)[0]
    return sign_of(problem.direction) * known
