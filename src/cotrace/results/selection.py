"""Selection: a set of components with what was measured of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotrace import markup
from cotrace.arguments import checked, guarded, names_of
from cotrace.components import Component
from cotrace.errors import InputError
from cotrace.results.forms import names_in, number_in, numbers_in

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from cotrace.donors import DonorSource
    from cotrace.models import LanguageModel
    from cotrace.prompts import Task

NUMBERS = (
    "effect",
    "effect_heldout",
    "p_value",
    "median_heldout",
    "moved_share",
    "forward_equivalents",
    "reported",
    "reported_heldout",
)
"""Fields of a selection that hold one number."""


@guarded("ct.Selection")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """A set of components of size k with its effect. Numbers that were not computed are None."""

    members: tuple[Component, ...]
    """The chosen components, in the order of the space (ascending names where there is none)."""
    effect: float | None = None
    """Aggregate effect on the pairs that the search saw; signed, as the metric is defined."""
    effect_heldout: float | None = None
    interval: tuple[float, float] | None = None
    """Bootstrap interval of the held-out effect."""
    p_value: float | None = None
    """Against random sets of the same size and composition, adjusted for all sizes tested."""
    median_heldout: float | None = None
    """Median effect over held-out pairs, which a few extreme pairs do not move."""
    moved_share: float | None = None
    """Share of the held-out pairs that move the way the search prefers."""
    forward_equivalents: float | None = None
    """What the search had cost when it found this set."""
    reported: float | None = None
    """The metric's own level as people read it, where the search followed a surrogate (soft accuracy, nearness)."""
    reported_heldout: float | None = None
    side: tuple[float, ...] | None = None
    """The values that constraints bound, one for each bound of the frontier."""
    side_heldout: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(self.members))

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

    @property
    def components(self) -> list[str]:
        """Names of the chosen components."""
        return [str(member) for member in self.members]

    def apply(
        self, model: LanguageModel, donor: str | DonorSource = "zero", *, reference: Task | None = None
    ) -> AbstractContextManager[PreTrainedModel]:
        """The Hugging Face model with this selection under the donor, to run, score and generate inside of ``with``.

        See ``cotrace.editing.apply``.
        """
        from cotrace.editing import apply

        return apply(model, self, donor, reference=reference)

    def weighted_cost(self, weights: Mapping[str, float]) -> float:
        """Sum over the members of the weight of their site; 1 for a site without one."""
        return sum(weights.get(member.site.value, 1.0) for member in self.members)

    def to_frame(self) -> pd.DataFrame:
        """One row for each member: component, site, layer, unit (empty for a whole layer), role."""
        import pandas as pd

        from cotrace.results.frames import MEMBER_COLUMNS, member_rows

        return pd.DataFrame(member_rows(self), columns=list(MEMBER_COLUMNS)).astype({"unit": "Int64"})

    def _repr_html_(self) -> str:
        from cotrace.results.tables import selection_facts

        return markup.facts(f"Selection of {self.k}", selection_facts(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "k": self.k,
            "components": self.components,
            "effect": self.effect,
            "effect_heldout": self.effect_heldout,
            "interval": None if self.interval is None else list(self.interval),
            "p_value": self.p_value,
            "median_heldout": self.median_heldout,
            "moved_share": self.moved_share,
            "forward_equivalents": self.forward_equivalents,
            "reported": self.reported,
            "reported_heldout": self.reported_heldout,
            "side": None if self.side is None else list(self.side),
            "side_heldout": None if self.side_heldout is None else list(self.side_heldout),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Selection:
        """Inverse of ``to_dict``. Raises KeyError, TypeError, InputError for data of another form."""
        interval = numbers_in(data, "interval", 2)
        return cls(
            members=tuple(map(Component.parse, names_in(data, "components"))),
            interval=None if interval is None else (interval[0], interval[1]),
            side=numbers_in(data, "side"),
            side_heldout=numbers_in(data, "side_heldout"),
            **{name: number_in(data, name) for name in NUMBERS},
        )
