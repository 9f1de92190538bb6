"""Who feeds whom: what a member does through another one, and which members stand in for each other.

For A before B, the arrow from A to B is the metric's change when B alone takes the value that it has when A is swapped.
Members that do little alone and much once another one is swapped (a backup and what it backs up) hide each other's
arrows: theirs are measured once more with that partner swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from types import MappingProxyType
from typing import Any

from cotrace.components import HELD, PARTS_OF, Component, Site
from cotrace.readout.changes import Changes, Signed
from cotrace.readout.held import PARTS, HeldRuns, Hold, Part, Run
from cotrace.readout.records import NEGLIGIBLE, Alone, Arrow, Kind, Paths
from cotrace.statistics import covers

MUCH_MORE = 2.0
"""A member is redundant where it does so many times as much once its partner is swapped."""
ORDER = (
    Site.ATTENTION_PATTERN,
    Site.HEAD_OUTPUT,
    Site.KV_GROUP,
    Site.ATTENTION_OUTPUT,
    Site.MLP_NEURON,
    Site.EXPERT,
    Site.MLP_COORDINATE,
    Site.MLP_OUTPUT,
    Site.RESIDUAL,
)
"""The sites of one layer, in the order in which they run."""


Hosts = Mapping[int, Site]
"""Layer with one dictionary -> the site whose value its features and error are parts of."""
HOST = {part: site for site, parts in PARTS_OF.items() for part in parts}


def before(first: Component, other: Component, hosts: Hosts = MappingProxyType({})) -> bool:
    """Whether the first component's value may reach the other's: it is in a layer below, or in the same and earlier.

    Features and the error of a layer stand where their host does, side by side.
    """
    if first.layer != other.layer:
        return first.layer < other.layer
    own, its = _site(first, hosts), _site(other, hosts)
    if its is not Site.RESIDUAL and _attends(own) == _attends(its):
        return own in HELD.get(its, ())
    return ORDER.index(own) < ORDER.index(its)


def _site(one: Component, hosts: Hosts) -> Site:
    return hosts[one.layer] if one.site in (Site.FEATURE, Site.ERROR) else HOST.get(one.site, one.site)


def _attends(site: Site) -> bool:
    return ORDER.index(site) <= ORDER.index(Site.ATTENTION_OUTPUT)


def most_runs(k: int) -> int:
    """Most forward-equivalents of ``follow`` for k members: on the pairs that choose partners and those that judge."""
    pairs = k * (k - 1) // 2
    contexts = _contexts(k)
    return (k + pairs) + (k + 1 + (1 + len(PARTS)) * pairs) + contexts * (2 * (k - 1) + 1)


def _contexts(k: int) -> int:
    """How many members are looked at with their partner swapped, at most."""
    return 0 if k < 2 else max(2, k // 2)


def follow(changes: Changes, chooses: Changes, members: Sequence[Component]) -> Paths:
    """Measure it on the pairs of ``changes``; partners are chosen on those of ``chooses``."""
    hosts = {one.layer: one.site for one in changes.part.scorer.model.dictionaries}
    return _Follower(changes, chooses, sorted(members, key=partial(_key, hosts=hosts)), hosts).paths()


def _key(member: Component, hosts: Hosts) -> tuple[int, int, str, int, str]:
    return member.layer, ORDER.index(_site(member, hosts)), member.site.value, member.unit or 0, member.role


def swap(*members: Component | None) -> Run:
    """The run in which these take the donor's value."""
    return Run(frozenset(member for member in members if member is not None))


def through(source: Component, target: Component, given: Component | None = None, part: Part = "all") -> Run:
    """The run in which the target is held at its value under the source's swap."""
    return Run(swap(given).swapped, Hold(target, swap(source, given).swapped, part))


class _Follower:
    def __init__(self, changes: Changes, chooses: Changes, members: Sequence[Component], hosts: Hosts) -> None:
        self.changes, self.chooses, self.members, self.hosts = changes, chooses, members, hosts
        held = HeldRuns(changes.part.scorer)
        self.parts = {member: held.parts(member) for member in members}
        self.joint = swap(*members)

    def paths(self) -> Paths:
        pairs = [(a, b) for a in self.members for b in self.members if before(a, b, self.hosts)]
        runs = [swap(a) for a in self.members] + [self.joint]
        for a, b in pairs:
            runs += [through(a, b), *(through(a, b, part=part) for part in self.parts[b])]
        self.changes.measure("who feeds whom", runs)
        partners = self._partners()
        again = [(a, b, p) for r, p in partners.items() for a, b in pairs if r in (a, b) and p not in (a, b)]
        again = list(dict.fromkeys(again))
        self.changes.measure(
            "with partners swapped", [*self._alone_with(again, partners), *(through(*t) for t in again)]
        )
        arrows = [*self._arrows([(a, b, None) for a, b in pairs]), *self._arrows(again)]
        heads = [m for m in self.members if m.site in (Site.HEAD_OUTPUT, Site.KV_GROUP, Site.ATTENTION_PATTERN)]
        return Paths(
            together=self.changes.value((1, self.joint)),
            together_interval=self.changes.intervals([[(1, self.joint)]])[0],
            members=tuple(self._members(partners)),
            arrows=tuple(arrows),
            pairs=self.changes.units.words.replace(" pairs", f" {self.changes.name} pairs", 1),
            partial=tuple(str(member) for member in heads if not self.parts[member]),
        )

    def _alone_with(self, again: Sequence[tuple[Component, Component, Component]], partners: Any) -> Iterator[Run]:
        for member, partner in partners.items():
            yield swap(member, partner)
        for source, _, given in again:
            yield swap(source, given)

    def _partners(self) -> dict[Component, Component]:
        """Member -> the one beside which it does much more than alone; the strongest, as many as are paid for."""
        told = self.chooses
        pairs = [swap(a, b) for a, b in combinations(self.members, 2)]
        told.measure("pairs of members", [*(swap(m) for m in self.members), *pairs, self.joint])
        least = NEGLIGIBLE * abs(told.value((1, self.joint)))
        found = []
        for one in self.members:
            gains = {p: self._gain(told, one, p) for p in self.members if p is not one}
            partner = max(gains, key=lambda p: abs(gains[p]), default=None)
            alone = abs(told.value((1, swap(one))))
            if partner is not None and abs(gains[partner]) > max(least, MUCH_MORE * alone):
                found.append((abs(gains[partner]) - alone, one, partner))
        found.sort(key=lambda row: -row[0])
        return {one: partner for _, one, partner in found[: _contexts(len(self.members))]}

    @staticmethod
    def _gain(told: Changes, one: Component, partner: Component) -> float:
        return told.value((1, swap(one, partner)), (-1, swap(partner)))

    def _members(self, partners: dict[Component, Component]) -> Iterator[Alone]:
        whole = self.changes.value((1, self.joint))
        for one in self.members:
            alone: Signed = [(1, swap(one))]
            interval = self.changes.intervals([alone])[0]
            effect, partner = self.changes.value(*alone), partners.get(one)
            against = effect * whole < 0 and abs(effect) >= NEGLIGIBLE * abs(whole) and not covers(interval)
            more: dict[str, Any] = {} if partner is None else self._beside(one, partner)
            yield Alone(component=str(one), effect=effect, interval=interval, inhibits=against, **more)

    def _beside(self, one: Component, partner: Component) -> dict[str, Any]:
        """What a member does once its partner is swapped; nothing where these pairs do not bear it out."""
        gain: Signed = [(1, swap(one, partner)), (-1, swap(partner))]
        extra = self.changes.value(*gain) - self.changes.value((1, swap(one)))
        if covers(self.changes.intervals([[*gain, (-1, swap(one))]])[0]):
            return {}
        back = self.changes.value((1, through(one, partner))) if before(one, partner, self.hosts) else 0.0
        return {
            "partner": str(partner),
            "with_partner": self.changes.value(*gain),
            "partner_interval": self.changes.intervals([gain])[0],
            "taken_back": back * extra < 0 and abs(back) >= abs(extra) / 2,
        }

    def _arrows(self, which: Sequence[tuple[Component, Component, Component | None]]) -> Iterator[Arrow]:
        told = self.changes
        rows = [[(1.0, through(a, b, p)), *([(-1.0, swap(p))] if p else [])] for a, b, p in which]
        intervals = told.intervals(rows)
        parts = [(a, b, part) for a, b, given in which if given is None for part in self.parts[b]]
        of_part = dict(zip(parts, told.intervals([[(1.0, through(a, b, part=p))] for a, b, p in parts]), strict=True))
        least = NEGLIGIBLE * abs(told.value((1, self.joint)))
        for (a, b, given), row, interval in zip(which, rows, intervals, strict=True):
            effect = told.value(*row)
            whole = told.value((1, swap(a, given)), *([(-1.0, swap(given))] if given else []))
            share = effect / whole if abs(whole) >= least and whole else None
            own = () if given else self.parts[b]
            yield Arrow(
                source=str(a),
                target=str(b),
                effect=effect,
                interval=interval,
                share=share,
                given=None if given is None else str(given),
                parts={p: told.value((1, through(a, b, part=p))) for p in own},
                part_intervals={p: of_part[a, b, p] for p in own},
                kind=self._kind(effect, whole, share, given),
            )

    @staticmethod
    def _kind(effect: float, whole: float, share: float | None, given: Component | None) -> Kind:
        rest = whole - effect
        if effect * rest < 0 and abs(effect) >= NEGLIGIBLE * max(abs(rest), abs(whole)) and abs(rest) > abs(whole):
            return "inhibiting"
        return "redundant" if given is not None and share is not None and abs(share) >= NEGLIGIBLE else ""
