"""Results of an evaluation as plain data: names and numbers, nothing that needs a model. None was not computed."""

from __future__ import annotations

from dataclasses import dataclass

from cotrace.statistics import Interval


@dataclass(frozen=True, kw_only=True)
class SizeEvidence:
    """The selection of one size on the pairs that judge."""

    k: int
    effect: float
    interval: Interval | None = None
    """BCa interval over pairs, or over groups of pairs; in ``keep`` mode of the ratio that faithfulness is."""
    median: float | None = None
    """Median effect: a few extreme pairs do not move it."""
    moved_share: float | None = None
    """Share of the pairs that move the way the search prefers."""
    control_mean: float | None = None
    """Mean effect of the random sets of this size."""
    control_best: float | None = None
    p_value: float | None = None
    """Against random sets of this size alone."""
    p_adjusted: float | None = None
    """The same, adjusted for all sizes tested (max-T)."""
    single_effect: float | None = None
    """Effect of the set of the best single components of this size."""
    over_single: Interval | None = None
    """Paired interval of the selection's effect less that set's; above 0 where the selection is better."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """How the random sets were drawn, and the one test that was fixed beforehand."""

    chains: int
    composition: str
    """Shared property of selections and random sets: ``site and layer``, or ``site`` where that leaves too few."""
    smallest_p: float
    """The smallest p-value that so many controls can give."""
    k: int
    """The size of the confirmatory test, fixed before any of these pairs was looked at."""
    p_value: float
    singles: str
    """How single components were ranked: ``effects``, or ``gradient`` where effects would have cost too much."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """Loss when one member leaves the selection."""

    component: str
    loss: float
    interval: Interval | None
    p_adjusted: float | None
    """One-sided, sign flips over pairs or groups, Holm over the members tested."""
    status: str
    """``needed``, ``can leave`` (the loss is small even at its interval's upper end), ``undecided``; ``not tested``."""


@dataclass(frozen=True, kw_only=True)
class Minimality:
    """Which members are needed, one at a time, and whether those that can leave can leave together."""

    members: tuple[Member, ...]
    untested: int
    """Members beyond the limit, not tested; those tested are the likeliest to leave, by the gradient."""
    margin: float
    """A loss below this counts as none."""
    left_together: float | None
    """Effect after all that can leave have left at once."""


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """Effect of the components outside the selection."""

    rest_effect: float
    full_effect: float
    share: float | None
    """rest / full; None where everything together does next to nothing."""


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """The best set of the same size without some members."""

    without: tuple[str, ...]
    components: tuple[str, ...]
    effect: float
    difference: Interval | None
    """Paired interval of the selection's effect less this one's."""
    overlap: float
    """Jaccard index with the selection."""
    near_equal: bool
    """Whether the interval of the difference holds 0 or the loss is within the margin."""
    method: str
    """``archive`` (the best of what the search had evaluated) or ``search`` (searched again without them)."""


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How often each component comes back."""

    method: str
    """``archive bootstrap`` re-selects, on resampled pairs, among the sets that the search had evaluated; it costs
    nothing and cannot find a set that the search never saw. ``search`` searches again."""
    runs: int
    inclusion: dict[str, float]
    """Component -> share of the runs that select it."""
    jaccard: float | None
    """Mean Jaccard index between pairs of runs."""
    forward_equivalents: float = 0.0
    kinds: tuple[str, ...] = ()
    """How the runs differed."""
    sets: int | None = None
    """Number of stored sets of this size that an archive bootstrap could choose from."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How two members act together."""

    components: tuple[str, str]
    within: float
    """Second difference at the selection: above 0 they do more together than apart (synergy), below 0 less."""
    interval: Interval | None
    alone: float | None
    """Second difference of the two by themselves."""
    kind: str
    """``synergy``, ``redundancy`` or ``none``, by the interval; not adjusted for the number of pairs. ``not tested``
    where there is no interval."""


@dataclass(frozen=True, kw_only=True)
class Shapley:
    """Each member's mean contribution over all orders of joining."""

    values: dict[str, float]
    standard_errors: dict[str, float]
    """0 where the values are exact."""
    permutations: int | None
    """None where every subset was evaluated."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A component whose effect appears only when another is chosen too."""

    component: str
    of: str
    """The other one; ``the selection`` where it was looked for from outside."""
    alone: float
    with_other: float


@dataclass(frozen=True, kw_only=True)
class Inhibitor:
    """A component that works against the direction of the search."""

    component: str
    change: float
    """Effect of joining the selection; for a member, of staying in it."""
    p_adjusted: float | None


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Pairs, Shapley values, and components with a part of their own."""

    pairs: tuple[Pair, ...]
    shapley: Shapley | None
    backups: tuple[Backup, ...]
    inhibitors: tuple[Inhibitor, ...]
    outside_tested: int
    """Components outside the selection whose joining was evaluated."""
    roles_untested: str = ""
    """Which of the roles had no test, so that none is named: ``backups``, or ``backups and inhibitors``."""


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """The faithfulness curve in ``keep`` mode, and its two areas, over the share of components kept."""

    sets_found_in: str
    """Mode in which the sets were found; they are kept here whatever it is."""
    sizes: tuple[int, ...]
    faithfulness: tuple[float, ...]
    cpr: float | None
    """Area under the curve."""
    cmd: float | None
    """Area between the curve and 1."""
    refused: str = ""
    """Why there are no areas."""


@dataclass(frozen=True, kw_only=True)
class SideEffect:
    """Effect of the selection where nothing should change."""

    task: str
    metric: str
    change: float
    interval: Interval | None
    examples: int
    per_size: dict[int, float]
    """The same for other sizes."""
    before: float | None = None
    """Loss per token of a neutral text before anything is changed; None for other tasks."""
    mode: str = "swap"
    """``swap``: the selected take the donor's value here too; ``keep``: all others do, as in the search."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """This search against another, on the same pairs."""

    search: str
    k: int
    difference: float
    interval: Interval | None
    """Paired; above 0 where the first search's set is better, in the direction of the search."""


@dataclass(frozen=True, kw_only=True)
class ForeignSet:
    """Somebody else's set against the search's own of the same size."""

    name: str
    components: tuple[str, ...]
    outside_space: tuple[str, ...]
    """Its components that this space does not hold; they are left out."""
    effect: float
    interval: Interval | None
    own_effect: float | None
    """Effect of the search's set of that size; None where it has none."""
    difference: Interval | None
    """Paired interval of own less theirs."""
    overlap: float | None
    """Jaccard index."""
    shared: tuple[str, ...]
    auroc: dict[str, float]
    """Role -> how well the order in which the frontier takes components in tells the role's from those of no role."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How far from the best set of this size, on the pairs that were searched."""

    k: int
    effect: float
    optimum: float | None
    """Best effect of all sets of this size; None where they are too many."""
    gap: float | None
    bound: float | None = None
    """Bound that no set can exceed, where the metric has one."""
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class OffManifold:
    """A selection under which single pairs move further than swapping everything moves any pair."""

    k: int
    pairs: int
    """How many pairs do."""
    id: str
    """The one that moves furthest."""
    effect: float
    limit: float
    """Limit beyond which a set is off the manifold: a stated multiple of the largest effect under the full swap."""
