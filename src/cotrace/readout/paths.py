"""Effects of members by position, and of one member through another: who feeds whom.

Every position is in one group: a span that the pair names, the words that differ from the donor prompt, the first and
the last token, or the rest.

For A before B, the arrow from A to B is the metric's change when B alone takes the value that it has when A is swapped.
Members that do little alone and much once another one is swapped (a backup and what it backs up) hide each other's
arrows: theirs are measured once more with that partner swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from cotrace.batches import EncodedPair
from cotrace.batches.encode import named_positions
from cotrace.batches.segments import shared_prefix
from cotrace.batches.tokenize import Text, TextTokenizer, base_text, counterfactual_text
from cotrace.components import HELD, PARTS_OF, Component, ComponentSpace, Site
from cotrace.problem import LanguageProblem
from cotrace.problem.scorer import Scorer
from cotrace.readout.changes import Changes, Signed
from cotrace.readout.held import PARTS, HeldRuns, Hold, Part, Run
from cotrace.readout.records import (
    ALL,
    CHANGED,
    EARLIER,
    FIRST,
    LAST,
    NEGLIGIBLE,
    OTHER,
    Acting,
    Alone,
    Arrow,
    Kind,
    Paths,
)
from cotrace.statistics import Interval, covers

MOST_ROLES = 8
Groups = dict[str, tuple[int, ...]]


def prompt_groups(problem: LanguageProblem, pairs: Sequence[EncodedPair], *, donor: bool = False) -> list[Groups]:
    """Group -> positions in each pair's base prompt, or in the prompt of its donor run; every position in one group."""
    named = _named(problem, pairs, donor=donor)
    return [_partition(pair, spans, donor) for pair, spans in zip(pairs, named, strict=True)]


def _named(problem: LanguageProblem, pairs: Sequence[EncodedPair], *, donor: bool) -> list[Groups]:
    """Spans as tokens. A donor prompt that is no counterfactual of the pair's own has those of the base prompt."""
    words, manner = problem.model.require_tokenizer(), problem.manner
    tokens = TextTokenizer(words, manner["prepend_bos"])
    arguments = manner["template_arguments"] or {}

    def text(pair: EncodedPair) -> Text:
        other = donor and bool(pair.donor) and (pair.pair.counterfactual or pair.pair.counterfactual_messages)
        return (counterfactual_text if other else base_text)(pair.pair, words, arguments)

    texts = [text(pair) for pair in pairs]
    marks = [tokens.many([one.text], rendered=one.rendered)[0] for one in texts]
    lengths = [len(pair.donor or pair.prompt) if donor else len(pair.prompt) for pair in pairs]
    found = [named_positions(*row) for row in zip(texts, marks, lengths, strict=True)]
    if not donor:
        return found
    base = _named(problem, pairs, donor=False)
    return [_moved(pair, own) | named for pair, own, named in zip(pairs, base, found, strict=True)]


def _moved(pair: EncodedPair, spans: Groups) -> Groups:
    """The spans of a base prompt where its tokens are aligned with the donor prompt's."""
    found = {
        role: tuple(sorted({other for i in where if (other := pair.donor_positions[i]) >= 0}))
        for role, where in spans.items()
    }
    return {role: where for role, where in found.items() if where}


def _partition(pair: EncodedPair, spans: Mapping[str, tuple[int, ...]], donor: bool) -> Groups:
    length = len(pair.donor or pair.prompt) if donor else len(pair.prompt)
    wanted = {
        **spans,
        CHANGED: changed(pair, donor=donor),
        LAST: (length - 1,),
        FIRST: (0,),
        OTHER: tuple(range(length)),
    }
    taken: set[int] = set()
    groups: Groups = {}
    for name, where in wanted.items():
        left = tuple(position for position in where if position not in taken)
        if left:
            groups[name] = left
            taken.update(left)
    return groups


def changed(pair: EncodedPair, *, donor: bool = False) -> tuple[int, ...]:
    """Positions at which base prompt and donor prompt have different tokens; none where there is no other prompt."""
    if not pair.donor:
        return ()
    differ = [
        (own, other)
        for own, other in enumerate(pair.donor_positions)
        if other >= 0 and pair.prompt[own] != pair.donor[other]
    ]
    return tuple(sorted(other if donor else own for own, other in differ))


def active(pair: EncodedPair) -> set[int]:
    """Positions at which a donor's value may differ from the own one."""
    start = shared_prefix(pair) if pair.donor else pair.prefix
    return {position for position, other in enumerate(pair.donor_positions) if other >= 0 and position >= start}


def acting_groups(
    pairs: Sequence[EncodedPair], groups: Sequence[Groups], most: int
) -> dict[str, list[tuple[int, ...]]]:
    """Return group -> its positions in each pair: roles, then single positions from the end, at most so many in all."""
    there = [active(pair) for pair in pairs]
    roles = list(dict.fromkeys(name for one in groups for name in one))[:MOST_ROLES]
    found = {role: [_within(one.get(role, ()), act) for one, act in zip(groups, there, strict=True)] for role in roles}
    found = {role: where for role, where in found.items() if any(where)}
    left = most - len(found)
    longest = max((len(pair.prompt) - min(act) for pair, act in zip(pairs, there, strict=True) if act), default=0)
    if left < 2:
        return found
    single = longest if longest <= left else left - 1
    for back in range(1, single + 1):
        found[f"-{back}"] = [_within((len(p.prompt) - back,), act) for p, act in zip(pairs, there, strict=True)]
    if longest > single:
        rest = [range(max(0, len(pair.prompt) - single)) for pair in pairs]
        found[EARLIER] = [_within(tuple(where), act) for where, act in zip(rest, there, strict=True)]
    return {name: where for name, where in found.items() if any(where)}


def _within(where: Sequence[int], those: set[int]) -> tuple[int, ...]:
    return tuple(position for position in where if position in those)


def act(
    problem: LanguageProblem, changes: Changes, members: Sequence[Component], most: int
) -> tuple[list[Acting], float]:
    """The members' effects by group of positions, at most ``most`` groups; and what that cost."""
    pairs = changes.part.scorer.pairs
    groups = acting_groups(pairs, prompt_groups(problem, pairs), most)
    at = {(member, name): replace(member, role=f"{member.role} at {name}") for name in groups for member in members}
    if not at:
        return [], 0.0
    here = changes.on(partial(_local, groups=groups, at=at))
    runs = [Run(frozenset([local])) for local in at.values()]
    here.measure("where members act", runs)
    intervals = here.intervals([[(1, run)] for run in runs])
    counts = {name: sum(map(bool, where)) for name, where in groups.items()}
    found = [
        Acting(component=str(member), where=name, effect=here.value((1, run)), interval=interval, pairs=counts[name])
        for (member, name), run, interval in zip(at, runs, intervals, strict=True)
    ]
    return found, here.spent


def _local(
    scorer: Scorer,
    groups: Mapping[str, Sequence[tuple[int, ...]]],
    at: Mapping[tuple[Component, str], Component],
) -> Scorer:
    """The scorer over components that are swapped at one group of positions of their own role."""
    pairs = []
    for i, pair in enumerate(scorer.pairs):
        roles = dict(pair.roles)
        for (member, name), local in at.items():
            own = set(range(len(pair.prompt)) if member.role == ALL else pair.roles[member.role])
            roles[local.role] = _within(groups[name][i], own)
        pairs.append(replace(pair, roles=roles))
    return scorer.over(pairs, ComponentSpace(tuple(at.values())))


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


def follow(
    changes: Changes,
    chooses: Changes,
    members: Sequence[Component],
    direct: Float[np.ndarray, "member pair"] | None = None,
) -> tuple[Paths, list[Interval | None]]:
    """Measure it on the pairs of ``changes``; partners are chosen on those of ``chooses``.

    The intervals of all arrows hold at once, those of the ``direct`` effects, which come second, among them.
    """
    hosts = {one.layer: one.site for one in changes.part.scorer.model.dictionaries}
    ordered = sorted(members, key=partial(_key, hosts=hosts))
    found = _Follower(changes, chooses, ordered, hosts, np.zeros((0, changes.part.size)) if direct is None else direct)
    return found.paths(), found.direct_intervals


def _key(member: Component, hosts: Hosts) -> tuple[int, int, str, int, str]:
    return member.layer, ORDER.index(_site(member, hosts)), member.site.value, member.unit or 0, member.role


def swap(*members: Component | None) -> Run:
    """The run in which these take the donor's value."""
    return Run(frozenset(member for member in members if member is not None))


def through(source: Component, target: Component, given: Component | None = None, part: Part = "all") -> Run:
    """The run in which the target is held at its value under the source's swap."""
    return Run(swap(given).swapped, Hold(target, swap(source, given).swapped, part))


class _Follower:
    def __init__(
        self, changes: Changes, chooses: Changes, members: Sequence[Component], hosts: Hosts, direct: np.ndarray
    ) -> None:
        self.changes, self.chooses, self.members, self.hosts, self.direct = changes, chooses, members, hosts, direct
        self.direct_intervals: list[Interval | None] = []
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
        arrows = list(self._arrows([*((a, b, None) for a, b in pairs), *again]))
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
        """Measure a member's effect once its partner is swapped; empty where these pairs do not bear it out."""
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
        parts = [(a, b, part) for a, b, given in which if given is None for part in self.parts[b]]
        every = [*rows, *([(1.0, through(a, b, part=p))] for a, b, p in parts)]
        found = told.joint_intervals(every, self.direct)
        intervals, self.direct_intervals = found[: len(rows)], found[len(every) :]
        of_part = dict(zip(parts, found[len(rows) : len(every)], strict=True))
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
