"""Frontier: the best selection found for every k, with the tables and data frames that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cotrace.components import ComponentSpace, Direction, Mode, sign_of
from cotrace.errors import InputError
from cotrace.results.effects import Bound, EffectTable, HardFigure
from cotrace.results.frontier_file import COLUMNS, TUPLES, Tables, check_form, load_frontier, save_frontier
from cotrace.results.selection import MEMBER_COLUMNS, Selection, changes, member_rows, names_in
from cotrace.results.table import Table, number, ranges
from cotrace.statistics import interval_text
from cotrace.text import escape
from cotrace.validation import checked, guarded

if TYPE_CHECKING:
    import pandas as pd


@guarded("ct.Frontier")
@dataclass(frozen=True, kw_only=True)
class Frontier:
    """For each k the best selection over all sets that the search ever evaluated."""

    search: str
    """Name of the search, such as ``pursuit``."""
    mode: Mode
    """``swap`` or ``keep``."""
    direction: Direction
    """The direction that the search preferred; effects are signed changes whatever it is."""
    metric: str
    """Name of the metric."""
    task: str
    """Name of the task."""
    model: str = ""
    """Name of the model; empty, as the four below, where it is not known, as in files that an earlier cotrace wrote."""
    donors: str = ""
    """Where the swapped values came from, as on the command line."""
    align: str = ""
    """Alignment of the prompts: ``exact``, ``ends`` or ``spans``."""
    positions: str = ""
    """Positions at which donors act: ``prompt`` or ``prompt+answer``."""
    split: str = ""
    """The split, as options (``holdout=0.3, seed=0``)."""
    space: ComponentSpace = field(repr=False)
    """All components that could be chosen."""
    selections: tuple[Selection, ...] = field(repr=False)
    """One per k, ascending; a search may leave sizes out."""
    forward_equivalents: float
    """Cost of the search: one mask on all training pairs is 1, a gradient is 2."""
    full_effect: float
    """The model level: effect of all components at once on the training pairs (swap: all swapped; keep: all kept)."""
    full_effect_heldout: float | None = None
    """The same on held-out pairs; None where nothing is held out."""
    full_is_clear: bool = True
    """Whether the pairs show that everything at once moves the metric, beyond rounding and chance: else no share of it
    is told."""
    full_is_clear_heldout: bool = True
    """The same of the held-out pairs."""
    reported_before: float | None = None
    """Level of the base run as people read it, where the search followed a soft form; ``selection.reported`` after."""
    reported_before_heldout: float | None = None
    """The same on held-out pairs."""
    target: float | None = None
    """The level that the search comes near to, where it was given one."""
    elapsed_s: float | None = None
    """Seconds of the search; None where they were not measured."""
    summary: str = ""
    """The question in words, with the direction and the full swap."""
    bounds: tuple[Bound, ...] = ()
    """Constraints that every selection keeps on the pairs that the search saw, by their margin."""
    infeasible_sizes: tuple[int, ...] = ()
    """Sizes of which sets were evaluated, none of which keeps the constraints."""
    cost_weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of one component of each site in ``weighted_cost``; empty where each counts 1."""
    by_cost: tuple[Selection, ...] = field(default=(), repr=False)
    """Sets of any size by ascending weighted cost, each better than all cheaper ones; empty without weights."""
    effects: EffectTable | None = field(default=None, repr=False, compare=False)
    """Per-example effects, on training pairs, of every set that the search evaluated; not in ``to_dict``."""
    effects_heldout: EffectTable | None = field(default=None, repr=False, compare=False)
    """Per-example effects of the selections on held-out pairs; not in ``to_dict``."""

    def __post_init__(self) -> None:
        sizes = [selection.k for selection in self.selections]
        if sizes != sorted(set(sizes)):
            raise InputError(f"a frontier holds one selection per k, ascending; got sizes {sizes}")

    def __repr__(self) -> str:
        sizes = f"k = {ranges(self.sizes)}"
        return f"Frontier({self.search}, {self.metric} on {self.task}, {self.mode}, {self.direction}, {sizes})"

    def __iter__(self) -> Iterator[Selection]:
        return iter(self.selections)

    def __len__(self) -> int:
        return len(self.selections)

    @property
    def roles(self) -> list[str]:
        """The position roles of its components."""
        return list(dict.fromkeys(component.role for component in self.space))

    @property
    def sizes(self) -> list[int]:
        """The sizes k that the search found a selection for."""
        return [selection.k for selection in self.selections]

    @cached_property
    def _by_size(self) -> dict[int, Selection]:
        return {selection.k: selection for selection in self.selections}

    @checked("frontier.at")
    def at(self, k: int) -> Selection:
        """The best selection with exactly k components. Raises InputError where the search found none."""
        if k in self.infeasible_sizes:
            raise InputError(f"{self.search} found no set of exactly {k} that keeps the constraints ({self._bounds})")
        if k not in self._by_size:
            raise InputError(self._missing(k))
        return self._by_size[k]

    def _missing(self, k: int) -> str:
        """Return a message for a size that has no selection."""
        below = [size for size in self.sizes if size <= k]
        remedy = f"; the nearest below is {below[-1]}, and best({k}) is the best of at most {k}" if below else ""
        return f"{self.search} found no selection of exactly {k}: sizes are {ranges(self.sizes)}{remedy}"

    @property
    def _bounds(self) -> str:
        return "; ".join(bound.words for bound in self.bounds)

    def violations(self, k: int) -> tuple[float, ...] | None:
        """How far the selection at k lies outside each bound on held-out pairs, margins aside; None without them."""
        side = self.at(k).side_heldout
        return None if side is None else tuple(b.violation(v) for b, v in zip(self.bounds, side, strict=True))

    @checked("frontier.best")
    def best(self, k: int | None = None, *, cost: float | None = None) -> Selection:
        """The best selection with at most k components, and of at most this weighted cost (of any where None).

        With a cost the sets of ``by_cost`` are looked through too: what is best for its cost need not be for its size.
        """
        pool = self.selections if cost is None else (*self.selections, *self.by_cost)
        within = [s for s in pool if s.effect is not None and (k is None or s.k <= k) and self._affords(s, cost)]
        if not within:
            limit = f"at most {k}" if cost is None else f"a weighted cost of at most {cost:g}"
            raise InputError(f"{self.search} found no selection with {limit}: sizes are {ranges(self.sizes)}")
        return max(within, key=lambda s: (self.sign * (s.effect or 0.0), -s.k))

    def _affords(self, selection: Selection, cost: float | None) -> bool:
        return cost is None or selection.weighted_cost(self.cost_weights) <= cost + 1e-9

    def weighted_cost(self, k: int) -> float:
        """The weighted cost of the best selection with exactly k components: k itself where no weights were given."""
        return self.at(k).weighted_cost(self.cost_weights)

    def enough(self, share: float = 0.9) -> Selection:
        """The smallest selection that has this share of the best effect found, counted from no effect."""
        best = self.sign * (self.best().effect or 0.0)
        reached = [s for s in self.selections if s.effect is not None and self.sign * s.effect >= share * best]
        return reached[0] if best > 0 and reached else self.best()

    @property
    def sign(self) -> int:
        """+1 where larger effects are preferred, -1 where smaller ones are."""
        return sign_of(self.direction)

    def share(self, selection: Selection, *, heldout: bool = False) -> float | None:
        """A selection's effect as a share of the full swap's; None where that is not shown to be anything but 0.

        Args:
            selection: A selection of this frontier.
            heldout: Of the held-out effects rather than those on the pairs searched.
        """
        effect = selection.effect_heldout if heldout else selection.effect
        full = self.full_effect_heldout if heldout else self.full_effect
        clear = self.full_is_clear and (self.full_is_clear_heldout or not heldout)
        if self.mode == "keep" or effect is None or full is None or not clear or not abs(full) > 1e-9:
            return None
        return effect / full

    def hard(self, selection: Selection, *, heldout: bool = False) -> HardFigure | None:
        """The metric as people read it before and under a selection; None where searches see it itself.

        Args:
            selection: A selection of this frontier.
            heldout: On held-out pairs rather than those searched.
        """
        before = self.reported_before_heldout if heldout else self.reported_before
        after = selection.reported_heldout if heldout else selection.reported
        effect = selection.effect_heldout if heldout else selection.effect
        if before is None or after is None:
            return None
        return HardFigure(before, after, effect if self.mode == "swap" else None, self.target)

    def save(self, path: str | Path) -> Path:
        """Write a new file: ``.json`` to read and compare, or ``.safetensors``, which keeps the effects on every pair.

        Gives the path. Raises InputError, OutputExists: nothing is written over.
        """
        return save_frontier(self.to_dict(), {"training": self.effects, "heldout": self.effects_heldout}, path)

    @classmethod
    def load(cls, path: str | Path) -> Frontier:
        """Inverse of ``save``. Raises InputError for another file.

        Args:
            path: A ``.safetensors`` or ``.json`` file that ``save`` wrote.
        """

        def made(data: dict[str, Any], tables: Tables) -> Frontier:
            found = cls.from_dict(data)
            return replace(found, effects=tables.get("training"), effects_heldout=tables.get("heldout"))

        return load_frontier(path, made)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per k with the columns of ``frontier.csv``."""
        return [self._row(selection) for selection in self.selections]

    def _row(self, selection: Selection) -> dict[str, Any]:
        low, high = selection.interval or (None, None)
        values = (
            self.search,
            selection.k,
            selection.effect,
            selection.effect_heldout,
            low,
            high,
            selection.p_value,
            selection.forward_equivalents,
            " ".join(selection.components),
            self.reported_before,
            selection.reported,
            self.reported_before_heldout,
            selection.reported_heldout,
        )
        return dict(zip(COLUMNS, values, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """The frontier as a DataFrame with the columns of ``frontier.csv``."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(COLUMNS))

    def members_frame(self) -> pd.DataFrame:
        """One row for each size and member: search, k, component, site, layer, unit (empty for a whole layer), role."""
        import pandas as pd

        rows = [{"search": self.search, "k": one.k} | row for one in self for row in member_rows(one)]
        return pd.DataFrame(rows, columns=["search", "k", *MEMBER_COLUMNS]).astype({"unit": "Int64"})

    def effects_frame(self, ids: Sequence[str] | None = None, *, heldout: bool = False) -> pd.DataFrame:
        """One row for each size and pair: search, k, pair, effect. ``ids`` names the pairs (``problem.training.ids``,
        or ``problem.heldout.ids`` with ``heldout``), by place where None. Raises InputError where single effects were
        not kept."""
        import pandas as pd

        table = self.effects_heldout if heldout else self.effects
        part = "held-out" if heldout else "training"
        if table is None:
            raise InputError(
                f"{self.search} kept no effects of single {part} pairs: its metric has none, nothing was held out, or "
                "the frontier was read from a file; ask problem.effects(selection)"
            )
        count = table.effects.shape[1]
        if ids is not None and len(ids) != count:
            raise InputError(
                f"{len(ids)} ids for {count} {part} pairs; give problem.training.ids or problem.heldout.ids"
            )
        pairs = list(range(count)) if ids is None else list(ids)
        found = [(one.k, table.find(np.packbits(self.space.indicator(one.members)).tobytes())) for one in self]
        known = [(k, effects.tolist()) for k, effects in found if effects is not None]
        rows = [(self.search, k, *one) for k, effects in known for one in zip(pairs, effects, strict=True)]
        return pd.DataFrame(rows, columns=["search", "k", "pair", "effect"])

    def table(self, most: int | None = None) -> Table:
        """k, effect, held-out effect, interval and the components that came (+) and went (-) since the row above.

        Args:
            most: Most rows, the smallest sizes first; None for all.
        """
        return frontier_table(self, most)

    def _repr_html_(self) -> str:
        return escape.paragraph(self.summary) + self.table(SHOWN_ROWS)._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        apart = ("selections", "effects", "effects_heldout")
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in apart} | {
            "space": self.space.names,
            "bounds": [bound.to_dict() for bound in self.bounds],
            "infeasible_sizes": list(self.infeasible_sizes),
            "cost_weights": dict(self.cost_weights),
            "by_cost": [selection.to_dict() for selection in self.by_cost],
            "selections": [selection.to_dict() for selection in self.selections],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Frontier:
        """Inverse of ``to_dict``. Raises KeyError, TypeError, ValueError, InputError for data of another form."""
        check_form(data)
        rest = {name: value for name, value in data.items() if name not in ("space", *TUPLES)}
        space = ComponentSpace.parse(names_in(data, "space"))
        selections = tuple(map(Selection.from_dict, data["selections"]))
        for selection in selections:
            space.indices(selection.members)  # raises where one lies outside
        return cls(
            space=space,
            selections=selections,
            bounds=tuple(Bound(**bound) for bound in data.get("bounds", ())),
            infeasible_sizes=tuple(data.get("infeasible_sizes", ())),
            by_cost=tuple(map(Selection.from_dict, data.get("by_cost", ()))),
            **rest,
        )


ADDED = "components added"
SHOWN_ROWS = 30
"""Sizes that a notebook shows of a frontier."""


def frontier_table(frontier: Frontier, most: int | None = None) -> Table:
    """One row per k: effect, held-out effect, interval, cost, and the components that came and went."""
    shown = frontier.selections if most is None else frontier.selections[:most]
    before: Selection | None = None
    rows = []
    for selection in shown:
        *figures, changed = _row(selection, before)
        rows.append((*figures, *_beside(frontier, selection), changed))
        before = selection
    sides = [head for bound in frontier.bounds for head in (bound.name, f"{bound.name}, held out")]
    columns = ("k", "effect", "held out", "interval", "p", "forward-eq.", "level", "level, held out", *sides, ADDED)
    title = f"{frontier.search} ({frontier.mode}): {frontier.metric} on {frontier.task}, {frontier.direction}"
    return Table(title + _gaps(frontier), columns, rows, frozenset({len(columns) - 1})).without_empty()


def _beside(frontier: Frontier, selection: Selection) -> list[str]:
    """The reported levels, and each side value with its held-out one; ! marks a held-out value out of bounds."""
    cells = [_hard(frontier, selection, heldout) for heldout in (False, True)]
    for i, bound in enumerate(frontier.bounds):
        seen, unseen = (None if side is None else side[i] for side in (selection.side, selection.side_heldout))
        broken = unseen is not None and bound.violation(unseen) > 0
        cells += [number(seen), number(unseen) + (" !" if broken else "")]
    return cells


def _hard(frontier: Frontier, selection: Selection, heldout: bool) -> str:
    """The level before and under the selection, ! where the soft form goes the other way."""
    found = frontier.hard(selection, heldout=heldout)
    if found is None:
        return number(selection.reported_heldout if heldout else selection.reported, signed=False)
    return found.words + (" !" if found.disagrees else "")


def _gaps(frontier: Frontier) -> str:
    """Return a sentence on sizes without a feasible set."""
    sizes = ranges(list(frontier.infeasible_sizes))
    return f"; no set found that keeps the constraints at k = {sizes}" if frontier.infeasible_sizes else ""


def _row(selection: Selection, before: Selection | None) -> tuple[str, ...]:
    return (
        str(selection.k),
        number(selection.effect),
        number(selection.effect_heldout),
        interval_text(selection.interval),
        number(selection.p_value, signed=False),
        number(selection.forward_equivalents, signed=False),
        changes(selection, before),
    )
