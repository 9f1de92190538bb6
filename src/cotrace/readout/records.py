"""Records that an explanation is made of: numbers and words, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from cotrace.statistics import Interval, covers

if TYPE_CHECKING:
    import pandas as pd

NEGLIGIBLE = 0.05
"""Share of the set's effect, or for an arrow of its source's, below which an effect counts as none."""
REST = "beginning of text"
NO_INTERVAL = "no interval"
NAMED = 0.4
"""Attention from which a behaviour is named."""
ALL, LAST = "all", "last"
CHANGED, FIRST, OTHER = "changed", "first", "other"
EARLIER = "earlier"
Kind = Literal["", "inhibiting", "redundant"]
Evidence = Literal["", "size alone", "interval"]
"""The evidence that a number is not 0: an interval without 0, or its size where there is no interval; else empty."""
Token = tuple[str, float]
"""Text, and the logit above the vocabulary's mean."""


def is_single(where: str) -> bool:
    """Whether a group is one position from the end, or all before those, and no role."""
    return where == EARLIER or (where[:1] == "-" and where[1:].isdigit())


@dataclass(frozen=True, kw_only=True)
class Look:
    """How much a head attends from one group of positions to another; of another member, how active it is there."""

    query: str
    """Positions that it looks from; of a member without attention, where it is active."""
    key: str
    """Empty where the member does not attend."""
    base: float
    """Mean attention (or activation) in the base run."""
    donor: float | None
    """None where donor values are no run of a prompt."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """A head's mean attention to the tokens that a head of some kind looks at."""

    name: str
    """Kind of head, such as ``induction``."""
    random: float | None
    """Score on random tokens that are repeated once; None where the model's prompts are too short for them."""
    base: float | None
    """Score on the base prompts; None where they have no such token."""
    donor: float | None
    """Score on the donor prompts; None where there are none."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """The reads of one member."""

    component: str
    """Name of the member."""
    attends: bool
    """Whether it is a head whose attention is known."""
    looks: tuple[Look, ...] = ()
    """Strongest first."""
    tokens: tuple[Token, ...] = ()
    """Most attended tokens from the last position, with their mean weight; of another member those where it is most
    active, with its mean size there."""
    behaviours: tuple[Behaviour, ...] = ()
    """How much it behaves like known kinds of heads."""

    @property
    def behaviour(self) -> Behaviour | None:
        """The one that the head is named by: the strongest on random tokens, where that is strong enough.

        Many heads rest on the first token where they have nothing to do: one is named by that only where it looks there
        from the last position of these prompts too.
        """
        strong = [one for one in self.behaviours if (one.random or 0.0) >= NAMED]
        named = [one for one in strong if one.name != REST]
        if not named and any(one.query == LAST and one.key == FIRST and one.base >= NAMED for one in self.looks):
            named = strong
        return max(named, key=lambda one: one.random or 0.0, default=None)

    def look(self, query: str = LAST) -> Look | None:
        """The strongest look from there.

        Args:
            query: Group of positions that it looks from.
        """
        return next((one for one in self.looks if one.query == query), None)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One pair's attention patterns, to be shown."""

    pair: str
    """Id of the pair."""
    run: str
    """``base`` or ``donor``."""
    tokens: tuple[str, ...]
    """Tokens of the prompt."""
    patterns: Mapping[str, tuple[tuple[float, ...], ...]]
    """Head -> [query, key], rounded."""


@dataclass(frozen=True)
class Contributions:
    """The logit difference between each pair's answers as a sum over all that is added to the stream."""

    pairs: tuple[str, ...]
    """Ids of the pairs."""
    names: tuple[str, ...]
    """``embeddings``, each head and MLP, and the biases."""
    table: Float[np.ndarray, "part pair"]
    """Parts by pairs."""
    logit_difference: Float[np.ndarray, "pair"]
    """Logit of the right answer less the others' mean, where their tokens first differ; of an only answer against the
    mean of the vocabulary. Before a cap on logits, where the model has one.
    """
    capped: bool = False
    """Whether the model does more to its logits than scale them: then this is of the logits before that."""

    def frame(self) -> pd.DataFrame:
        """One row for each part and a column for each pair, with the sum last."""
        import pandas as pd

        rows = np.concatenate([self.table, self.table.sum(0, keepdims=True)])
        return pd.DataFrame(rows, index=pd.Index([*self.names, "sum"], name="part"), columns=list(self.pairs))


@dataclass(frozen=True, kw_only=True)
class Written:
    """The writes of one member; numbers that the model does not allow are None, and the explanation says why."""

    component: str
    """Name of the member."""
    base: float | None = None
    """Its part in the logit difference of the base run, mean over pairs."""
    donor: float | None = None
    """The same of the value that it has when it is swapped, at the base run's scales."""
    promoted: tuple[Token, ...] = ()
    """Tokens whose logits its writes on these pairs raise most."""
    suppressed: tuple[Token, ...] = ()
    """Tokens whose logits it lowers most."""

    @property
    def difference(self) -> float | None:
        """Change of its part under a swap."""
        return None if self.base is None or self.donor is None else self.donor - self.base


@dataclass(frozen=True, kw_only=True)
class Active:
    """A token on which a feature is active, with the text around it."""

    before: str
    """Text before the token."""
    token: str
    """The token."""
    after: str
    """Text after the token."""
    activation: float
    """Activation there."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Description of a dictionary's feature, over all tokens of the prompts that are measured."""

    dictionary: str
    """Name of its dictionary."""
    hook: str
    """The place that its dictionary writes."""
    active_share: float
    """Share of the prompts' tokens on which it is active."""
    active: tuple[Active, ...] = ()
    """Tokens where it is most active, the strongest first, one of each prompt."""
    promoted: tuple[Token, ...] = ()
    """Tokens that its direction promotes straight through the final norm, by how many logits at activation 1."""
    suppressed: tuple[Token, ...] = ()
    """Tokens that its direction lowers most."""
    link: str | None = None
    """Its page at Neuronpedia, where its dictionary names one; nothing is fetched."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Tokens that a head moves when it attends to one token alone; or another member, by its output row."""

    token: str
    """Empty of an output row."""
    raises: tuple[str, ...]
    """Tokens whose logits that raises most, strongest first."""
    lowers: tuple[str, ...] = ()
    """Tokens that it lowers most."""


@dataclass(frozen=True, kw_only=True)
class Ov:
    """A member's weights by themselves: a head's OV map, or an output row."""

    copies: float | None
    """Share of the prompts' tokens (without the first) whose own logit attending to them raises among the five most;
    None where the member does not attend."""
    moved: tuple[Moved, ...] = ()
    """One entry for each of the tokens that it attends to most; one for an output row."""
    share: float | None = None
    """Share of an expert's sum of squares along the direction in which its neurons' rows write most, which is taken for
    its row; None for all others, which have one row."""

    @property
    def row(self) -> str:
        """Say in words what its output row is."""
        return (
            "its output row" if self.share is None else f"the leading direction of its rows ({self.share:.0%} of them)"
        )


@dataclass(frozen=True, kw_only=True)
class Acting:
    """Effect of a member's swap at some positions alone."""

    component: str
    """Name of the member."""
    where: str
    """A role, or how many tokens from the end (``-1`` is the last, ``earlier`` all before those named)."""
    effect: float
    """Change of the metric."""
    interval: Interval | None
    """Its 95 % interval; None with too few pairs."""
    pairs: int
    """Number of pairs with such a position and a donor's value there."""


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """Effect of one member through a later one."""

    source: str
    """Name of the earlier member."""
    target: str
    """Name of the later member."""
    effect: float
    """Change of the metric when the target alone takes the value that it has when the source is swapped."""
    interval: Interval | None
    """Over pairs, together with those of all other arrows; None where there are too few, or the metric has no effect of
    each."""
    share: float | None
    """Share of the source's whole effect, under the same condition; None where that is next to nothing."""
    given: str | None = None
    """The member that is swapped throughout, because source or target stands in for it; None for the base run."""
    parts: dict[str, float] = field(default_factory=dict)
    """The same where only the target head's ``query``, ``key`` or ``value`` changes; they need not add up."""
    part_intervals: dict[str, Interval | None] = field(default_factory=dict)
    """Interval of each part."""
    kind: Kind = ""
    """``inhibiting``: takes back some of what the source does otherwise. ``redundant``: seen only with ``given``."""

    @property
    def evidence(self) -> Evidence:
        """Whether it is more than next to nothing, and what says so: its interval, or its size alone."""
        if self.share is None or abs(self.share) < NEGLIGIBLE or covers(self.interval):
            return ""
        return "size alone" if self.interval is None else "interval"

    @property
    def mark(self) -> str:
        """Mark in a few words: ``inhibiting``, ``redundant, with L1.head0 swapped, no interval``."""
        said = [self.kind, f"with {self.given} swapped" if self.given else "", NO_INTERVAL if not self.interval else ""]
        return ", ".join(filter(None, said))


@dataclass(frozen=True, kw_only=True)
class Alone:
    """Effect of swapping one member."""

    component: str
    """Name of the member."""
    effect: float
    """Change of the metric when it alone is swapped."""
    interval: Interval | None
    """Its 95 % interval; None with too few pairs."""
    partner: str | None = None
    """The member once which is swapped this one does much more; None where there is none."""
    with_partner: float | None = None
    """Effect of this member then."""
    partner_interval: Interval | None = None
    """Interval of ``with_partner``."""
    taken_back: bool = False
    """Whether the partner takes back its effect, rather than standing in for it."""
    inhibits: bool = False
    """Whether it moves the metric against what the whole set does."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The set as a circuit."""

    together: float
    """The metric's change when the whole set is swapped."""
    together_interval: Interval | None
    """Its 95 % interval; None with too few pairs."""
    members: tuple[Alone, ...]
    """Effect of each member."""
    arrows: tuple[Arrow, ...]
    """Every ordered pair, in order of layers, those with a condition last."""
    pairs: str
    """The pairs in words, such as ``24 held-out pairs``."""
    partial: tuple[str, ...] = ()
    """Members whose query, key and value cannot be changed alone in this family."""

    def arrow(self, source: str, target: str, given: str | None = None) -> Arrow | None:
        """The arrow between two members; None where the first is not before the second.

        Args:
            source: Name of the earlier member.
            target: Name of the later member.
            given: Member that is swapped throughout; None for the base run.
        """
        return next((a for a in self.arrows if (a.source, a.target, a.given) == (source, target, given)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
