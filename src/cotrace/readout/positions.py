"""Where members act: prompts cut into named groups of positions, and a member's effect when it is swapped at one group.

Every position is in one group: a span that the pair names, the words that differ from the donor prompt, the first and
the last token, or the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from cotrace.batches import EncodedPair
from cotrace.batches.roles import named_positions
from cotrace.batches.strips import shared_prefix
from cotrace.batches.texts import Text, TextTokenizer, base_text, counterfactual_text
from cotrace.components import Component, ComponentSpace
from cotrace.problem import LanguageProblem
from cotrace.problem.scorer import Scorer
from cotrace.readout.changes import Changes
from cotrace.readout.held import Run
from cotrace.readout.records import ALL, CHANGED, EARLIER, FIRST, LAST, OTHER, Acting

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
    """Where -> its positions in each pair: the roles, then single positions from the end, at most so many in all."""
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
