"""Selection: a set of components with what was measured of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cotrace.components import Component, ComponentSpace, Mode
from cotrace.errors import InputError
from cotrace.results.table import number, shorten
from cotrace.statistics import Interval, interval_text
from cotrace.text import escape
from cotrace.text.files import shortened
from cotrace.validation import LISTS, checked, guarded, names_of

if TYPE_CHECKING:
    import pandas as pd

MEMBER_COLUMNS = ("component", "site", "layer", "unit", "role")


def member_rows(selection: Selection) -> list[dict[str, Any]]:
    """One dict for each member."""
    return [
        dict(zip(MEMBER_COLUMNS, (str(m), m.site.value, m.layer, m.unit, m.role), strict=True))
        for m in selection.members
    ]


def number_in(data: Mapping[str, Any], name: str) -> float | None:
    """The number in a field; None where it was not computed. Raises TypeError."""
    value = data.get(name)
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{name} is {value!r:.60}, and needs a number")


def numbers_in(data: Mapping[str, Any], name: str, count: int | None = None) -> tuple[float, ...] | None:
    """The numbers in a field, so many of them; None where they were not computed. Raises TypeError."""
    values = data.get(name)
    if values is None:
        return None
    if not isinstance(values, (list, tuple)) or (count is not None and len(values) != count) or None in values:
        raise TypeError(f"{name} is {values!r:.60}, and needs {'' if count is None else f'{count} '}numbers")
    return tuple(number for value in values if (number := number_in({name: value}, name)) is not None)


def names_in(data: Mapping[str, Any], name: str) -> list[str]:
    """The texts in a field. Raises KeyError, TypeError."""
    values = data[name]
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} is {values!r:.60}, and needs a list of names")
    return list(values)


AnySet = Any
"""A set: a Selection, component names (or a single one), components, or where a space is known a mask [n]."""
SEVERAL = ("interval", "side", "side_heldout")
"""Fields of a selection that hold several numbers."""


@guarded("ct.Selection")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """A set of components of size k with its effect. Numbers that were not computed are None."""

    members: tuple[Component, ...]
    """The chosen components, in the order of the space (ascending names where there is none)."""
    effect: float | None = None
    """Aggregate effect on the pairs that the search saw; signed, as the metric is defined."""
    effect_heldout: float | None = None
    """Aggregate effect on held-out pairs."""
    interval: Interval | None = None
    """Bootstrap interval of the held-out effect."""
    p_value: float | None = None
    """Against random sets of the same size and composition, adjusted for all sizes tested."""
    median_heldout: float | None = None
    """Median effect over held-out pairs, which a few extreme pairs do not move."""
    moved_share: float | None = None
    """Share of the held-out pairs that move the way the search prefers."""
    forward_equivalents: float | None = None
    """Cost of the search when it found this set, in forward-equivalents."""
    reported: float | None = None
    """The metric's own level as people read it, where the search followed a surrogate (soft accuracy, nearness)."""
    reported_heldout: float | None = None
    """The same on held-out pairs."""
    side: tuple[float, ...] | None = None
    """The values that constraints bound, one for each bound of the frontier."""
    side_heldout: tuple[float, ...] | None = None
    """The same on held-out pairs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))

    def __repr__(self) -> str:
        shown = " ".join(self.components[:8]) + (" ..." if self.k > 8 else "")
        effect = "" if self.effect is None else f", effect {self.effect:+.4g}"
        return f"Selection(k = {self.k}: {shown}{effect})"

    @classmethod
    @checked("Selection.parse")
    def parse(cls, names: Iterable[str]) -> Selection:
        """Somebody's set, from component names such as ``L9.head6`` or ``9.6``, each once. Raises InputError."""
        given = [Component.parse(name) for name in names_of("Selection.parse", "names", names)]
        double = next((member for member, count in Counter(given).items() if count > 1), None)
        if double is not None:
            raise InputError(f"Selection.parse: {double} stands twice; name each component once")
        return cls(members=tuple(sorted(given)))

    @property
    def k(self) -> int:
        """How many components are chosen."""
        return len(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Component]:
        return iter(self.members)

    def __contains__(self, member: object) -> bool:
        """Whether a component, given itself or by any of its names, is chosen."""
        return (Component.parse(member) if isinstance(member, str) else member) in self.members

    def __and__(self, other: AnySet) -> Selection:
        """The members that another set (a Selection or names) has too; nothing is measured of them yet."""
        theirs = members_of("Selection &", "the other set", other)
        return Selection(members=tuple(member for member in self.members if member in theirs))

    def __or__(self, other: AnySet) -> Selection:
        """The members of either, ascending."""
        return Selection(members=tuple(sorted({*self.members, *members_of("Selection |", "the other set", other)})))

    def __sub__(self, other: AnySet) -> Selection:
        """The members that another set does not have."""
        theirs = members_of("Selection -", "the other set", other)
        return Selection(members=tuple(member for member in self.members if member not in theirs))

    def overlap(self, other: AnySet) -> float:
        """Share of the members of either set that both have (Jaccard index), 0 to 1; 1 of two empty sets.

        Args:
            other: A Selection, component names or a mask.
        """
        mine, theirs = set(self.members), set(members_of("Selection.overlap", "other", other))
        return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0

    def __str__(self) -> str:
        """Text such as ``L4.head0, L4.head2: +5.50 (held out +5.40)``; numbers that are not known are left out."""
        names = ", ".join(self.components) or "no components"
        effect = "" if self.effect is None else f": {self.effect:+#.3g}"
        heldout = "" if self.effect_heldout is None else f" (held out {self.effect_heldout:+#.3g})"
        return f"{names}{effect}{heldout}"

    @property
    def components(self) -> list[str]:
        """Names of the chosen components."""
        return [str(member) for member in self.members]

    def weighted_cost(self, weights: Mapping[str, float]) -> float:
        """Sum over the members of the weight of their site; 1 for a site without one.

        Args:
            weights: Site -> weight of one component.
        """
        return sum(weights.get(member.site.value, 1.0) for member in self.members)

    def to_frame(self) -> pd.DataFrame:
        """One row for each member: component, site, layer, unit (empty for a whole layer), role."""
        import pandas as pd

        return pd.DataFrame(member_rows(self), columns=list(MEMBER_COLUMNS)).astype({"unit": "Int64"})

    def _repr_html_(self) -> str:
        return escape.facts(f"Selection of {self.k}", selection_facts(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        known = {name: getattr(self, name) for name in (one.name for one in fields(self)) if name != "members"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
        return {"k": self.k, "components": self.components, **plain}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Selection:
        """Inverse of ``to_dict``. Raises KeyError, TypeError, InputError for data of another form."""
        interval = numbers_in(data, "interval", 2)
        single = [one.name for one in fields(cls) if one.name not in ("members", *SEVERAL)]
        return cls(
            members=tuple(map(Component.parse, names_in(data, "components"))),
            interval=None if interval is None else (interval[0], interval[1]),
            side=numbers_in(data, "side"),
            side_heldout=numbers_in(data, "side_heldout"),
            **{name: number_in(data, name) for name in single},
        )


def is_named(value: object) -> bool:
    """Whether this names the components of one set: a Selection, a name, or a collection with names in it."""
    if isinstance(value, Selection | str | Component | ComponentSpace):
        return True
    return isinstance(value, LISTS) and any(isinstance(one, str | Component) for one in value)


def members_of(called: str, name: str, value: AnySet) -> tuple[Component, ...]:
    """Components out of a Selection, one name or component, or a collection of either. Raises InputError."""
    if isinstance(value, Selection):
        return value.members
    given = [value] if isinstance(value, str | Component) else value
    found = list(given) if isinstance(given, Iterable) else [given]
    if all(isinstance(one, str | Component) for one in found):
        return tuple(one if isinstance(one, Component) else Component.parse(one) for one in found)
    raise InputError(
        f"{called}: {name} is {_shown(value)}; give component names such as L9.head6, components or a Selection"
    )


def selection_of(called: str, value: AnySet, space: ComponentSpace | None = None, mode: Mode = "swap") -> Selection:
    """A Selection of any set; a mask of 0 and 1 [n] is read by its space and mode. Raises InputError."""
    if isinstance(value, Selection):
        return value
    numbers = _numbers(value)
    if numbers is None:
        return Selection.parse(map(str, members_of(called, "the set", value)))
    if space is None:
        raise InputError(f"{called}: a mask is read by its space: give space=problem.space with it, or names")
    if len(numbers) != len(space) or not set(numbers) <= {0, 1}:
        raise InputError(
            f"{called}: the mask is no set: give [n] of 0 and 1 alone, with n = {len(space)} components of the space"
        )
    chosen = 1 if mode == "swap" else 0
    return Selection(members=tuple(one for one, number in zip(space, numbers, strict=True) if number == chosen))


def _numbers(value: object) -> list[float] | None:
    """The numbers of a mask; None where it is none."""
    if is_named(value):
        return None
    plain = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(plain, list | tuple) and plain and all(isinstance(one, int | float) for one in plain):
        return list(plain)
    return None


def _shown(value: object) -> str:
    plain = value is None or isinstance(value, list | tuple | dict | int | float)
    return shortened(value) if plain else f"of type {type(value).__name__}"


def changes(selection: Selection, before: Selection | None) -> str:
    """Names that came, and with a minus those that went, since the selection before."""
    was, now = (before.components if before else []), selection.components
    came = [name for name in now if name not in set(was)]
    return shorten([*came, *(f"-{name}" for name in was if name not in set(now))])


def selection_facts(selection: Selection) -> dict[str, str]:
    """Name -> value of what is known of a selection."""
    return {
        "components": shorten(selection.components, most=40),
        "effect": number(selection.effect),
        "effect, held out": number(selection.effect_heldout),
        "interval": interval_text(selection.interval, "+.4g"),
        "p": number(selection.p_value, signed=False),
    }
