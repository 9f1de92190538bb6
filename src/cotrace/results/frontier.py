"""Frontier: the best selection found for every k, and what finding it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cotrace import markup
from cotrace.arguments import checked, guarded
from cotrace.components import ComponentSpace, Direction, Mode, sign_of
from cotrace.errors import InputError
from cotrace.results.bound import Bound
from cotrace.results.effects import EffectTable
from cotrace.results.forms import check_among, check_texts, names_in, number_in, numbers_in
from cotrace.results.frontier_file import Tables, load_frontier, save_frontier
from cotrace.results.hard import HardFigure
from cotrace.results.selection import Selection
from cotrace.results.table import Table

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("reported_before", "reported_before_heldout", "target")
_TUPLES = ("selections", "bounds", "infeasible_sizes", "by_cost")
ORIGIN = ("model", "donors", "align", "positions", "split")
"""Fields that say where a frontier comes from; files of earlier versions do not have them."""
OLD_COLUMNS = (
    "search",
    "k",
    "effect",
    "effect_heldout",
    "ci_low",
    "ci_high",
    "p_value",
    "forward_equivalents",
    "components",
)
REPORTED = ("reported_before", "reported", "reported_before_heldout", "reported_heldout")
"""Further columns: the metric as people read it, before and under the mask, where the search followed a soft form."""
COLUMNS = (*OLD_COLUMNS, *REPORTED)


@guarded("ct.Frontier")
@dataclass(frozen=True, kw_only=True)
class Frontier:
    """For each k the best selection over all sets that the search ever evaluated."""

    search: str
    """Name of the search, such as ``pursuit``."""
    mode: Mode
    direction: Direction
    """What the search preferred; effects are signed changes whatever it is."""
    metric: str
    task: str
    model: str = ""
    """Name of the model; empty, as the four below, where it is not known, as in files that an earlier cotrace wrote."""
    donors: str = ""
    """Where the swapped values came from, as on the command line."""
    align: str = ""
    positions: str = ""
    split: str = ""
    """What was held out, as options (``holdout=0.3, seed=0``)."""
    space: ComponentSpace = field(repr=False)
    selections: tuple[Selection, ...] = field(repr=False)
    """One per k, ascending; a search may leave sizes out."""
    forward_equivalents: float
    """What the search cost: one mask on all training pairs is 1, a gradient is 2."""
    full_effect: float
    """The model level: effect of all components at once on the training pairs (swap: all swapped; keep: all kept)."""
    full_effect_heldout: float | None = None
    full_is_clear: bool = True
    """Whether the pairs show that everything at once moves the metric, beyond rounding and chance: else no share of it
    is told."""
    full_is_clear_heldout: bool = True
    reported_before: float | None = None
    """Level of the base run as people read it, where the search followed a soft form; ``selection.reported`` after."""
    reported_before_heldout: float | None = None
    target: float | None = None
    """The level that the search comes near to, where it was given one."""
    elapsed_s: float | None = None
    summary: str = ""
    """The question in words, with the direction and the full swap."""
    bounds: tuple[Bound, ...] = ()
    """Constraints that every selection keeps on the pairs that the search saw, by their margin."""
    infeasible_sizes: tuple[int, ...] = ()
    """Sizes of which sets were evaluated, none of which keeps the constraints."""
    cost_weights: Mapping[str, float] = field(default_factory=dict)
    """What one component of each site counts in ``weighted_cost``; empty where each counts 1."""
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
        """What is said of a size that has no selection."""
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
        """A selection's effect as a share of the full swap's; None where that is not shown to be anything but 0."""
        effect = selection.effect_heldout if heldout else selection.effect
        full = self.full_effect_heldout if heldout else self.full_effect
        clear = self.full_is_clear and (self.full_is_clear_heldout or not heldout)
        if self.mode == "keep" or effect is None or full is None or not clear or not abs(full) > 1e-9:
            return None
        return effect / full

    def hard(self, selection: Selection, *, heldout: bool = False) -> HardFigure | None:
        """The metric as people read it before and under a selection; None where searches see it itself."""
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
        """Inverse of ``save``. Raises InputError for another file."""

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
        """One row for each size and member: search, k, component, site, layer, unit, role."""
        from cotrace.results.frames import members_frame

        return members_frame(self)

    def effects_frame(self, ids: Sequence[str] | None = None, *, heldout: bool = False) -> pd.DataFrame:
        """One row for each size and pair: search, k, pair, effect. ``ids`` names the pairs (``problem.training.ids``,
        or ``problem.heldout.ids`` with ``heldout``). Raises InputError where single effects were not kept."""
        from cotrace.results.frames import effects_frame

        return effects_frame(self, ids, heldout=heldout)

    def table(self, most: int | None = None) -> Table:
        """k, effect, held-out effect, interval and the components that came (+) and went (-) since the row above."""
        from cotrace.results.tables import frontier_table

        return frontier_table(self, most)

    def _repr_html_(self) -> str:
        from cotrace.results.tables import SHOWN_ROWS

        return markup.paragraph(self.summary) + self.table(SHOWN_ROWS)._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "search": self.search,
            "mode": self.mode,
            "direction": self.direction,
            "metric": self.metric,
            "task": self.task,
            **{name: getattr(self, name) for name in ORIGIN},
            "space": self.space.names,
            "forward_equivalents": self.forward_equivalents,
            "full_effect": self.full_effect,
            "full_effect_heldout": self.full_effect_heldout,
            "full_is_clear": self.full_is_clear,
            "full_is_clear_heldout": self.full_is_clear_heldout,
            "reported_before": self.reported_before,
            "reported_before_heldout": self.reported_before_heldout,
            "target": self.target,
            "elapsed_s": self.elapsed_s,
            "summary": self.summary,
            "bounds": [bound.to_dict() for bound in self.bounds],
            "infeasible_sizes": list(self.infeasible_sizes),
            "cost_weights": dict(self.cost_weights),
            "by_cost": [selection.to_dict() for selection in self.by_cost],
            "selections": [selection.to_dict() for selection in self.selections],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Frontier:
        """Inverse of ``to_dict``. Raises KeyError, TypeError, ValueError, InputError for data of another form."""
        _check_form(data)
        rest = {name: value for name, value in data.items() if name not in ("space", *_TUPLES)}
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


def _check_form(data: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where a field that stays as it is holds another kind of value."""
    check_texts(data, "search", "metric", "task", "summary", *ORIGIN)
    check_among(data, "mode", get_args(Mode))
    check_among(data, "direction", get_args(Direction))
    for name in ("forward_equivalents", "full_effect", "full_effect_heldout", "elapsed_s", *NUMBERS):
        number_in(data, name)
    if data["forward_equivalents"] is None or data["full_effect"] is None:
        raise TypeError("forward_equivalents and full_effect need numbers")
    for name in ("full_is_clear", "full_is_clear_heldout"):
        if not isinstance(data.get(name, True), bool):
            raise TypeError(f"{name} is {data[name]!r}, not true or false")
    weights = data.get("cost_weights", {})
    numbers_in({"cost_weights": list(weights.values())}, "cost_weights")


def ranges(sizes: list[int]) -> str:
    """``1-5, 7`` for ``[1, 2, 3, 4, 5, 7]``."""
    runs: list[list[int]] = []
    for size in sizes:
        if runs and size == runs[-1][-1] + 1:
            runs[-1].append(size)
        else:
            runs.append([size])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) or "none"
