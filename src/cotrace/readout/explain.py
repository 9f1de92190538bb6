"""``ct.explain``: what the members of a set do, measured on the pairs that no search has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from cotrace.components import FEATURE_SITES, Component
from cotrace.dictionaries.feature_cards import FeatureCard, described
from cotrace.errors import InputError, UnsupportedSite
from cotrace.problem import LanguageProblem
from cotrace.problem.scored import PairProblem
from cotrace.readout.card import Card, words_of
from cotrace.readout.changes import Changes
from cotrace.readout.explanation import Explanation
from cotrace.readout.logit_parts import writer_of
from cotrace.readout.output_maps import output_rows, ov_maps
from cotrace.readout.paths import act, follow, most_runs
from cotrace.readout.reads import HEADS, MOST_PAIRS, read
from cotrace.readout.records import Acting, Active, Contributions, Example, Feature, Ov, Paths, Read, Written
from cotrace.readout.writes import Writes
from cotrace.results import Frontier, members_of, selection_of
from cotrace.statistics import FEWEST_UNITS, Interval
from cotrace.text.progress_bar import Steps, stepping
from cotrace.validation import check_kind, checked

MOST_GROUPS = 24
"""Groups of positions at which members are swapped, at most."""
CAPTURES = 6
"""Forward-equivalents of captures and random tokens, at most."""
CARDS = 2
"""Cost of looking for features in the prompts of both runs."""


@dataclass(frozen=True, kw_only=True)
class ExplanationPlan:
    """Predicted cost of an explanation."""

    components: tuple[str, ...]
    """Names of the members."""
    pairs: str
    """Which pairs the figures will be of."""
    groups: int
    """Groups of positions, at most."""
    forward_equivalents: int
    """At most: 4 k^2 + 100 is never exceeded."""

    def __str__(self) -> str:
        return (
            f"explaining {len(self.components)} components on {self.pairs}: at most {self.forward_equivalents:,} "
            "forward-equivalents"
        )


@checked("ct.readout.predict")
def predict(problem: LanguageProblem, selection: Any, *, k: int | None = None) -> ExplanationPlan:
    """Return what ``explain`` will do and cost; nothing is run. Raises InputError as ``explain`` does.

    Args:
        problem: The problem of the selection.
        selection: A frontier, a Selection, or names.
        k: Size to take from a frontier; None for the smallest with 90 % of the best effect.
    """
    members = _members(problem, selection, k)
    most, groups = _cost(members)
    judged = "heldout" if problem.heldout is not None else "training"
    size = problem.counted_parts[judged].size
    return ExplanationPlan(
        components=tuple(map(str, members)),
        pairs=f"{size} {'held-out' if judged == 'heldout' else 'training'} pairs",
        groups=groups,
        forward_equivalents=most,
    )


def _cost(members: Sequence[Component]) -> tuple[int, int]:
    """Forward-equivalents at most, and how many groups of positions that leaves room for."""
    k = len(members)
    fixed = most_runs(k) + (2 * k + 1) + _looks(members)
    groups = max(0, min(MOST_GROUPS, (4 * k**2 + 100 - fixed) // k))
    return fixed + groups * k, groups


def _looks(members: Sequence[Component]) -> int:
    """Forward-equivalents of all that is read off runs in which nothing is swapped."""
    return CAPTURES + CARDS * any(member.site in FEATURE_SITES for member in members)


@checked("ct.explain")
def explain(
    problem: LanguageProblem,
    selection: Any,
    *,
    k: int | None = None,
    known: Mapping[str, Any] | None = None,
    progress: Steps | bool | None = None,
) -> Explanation:
    """Say what a set does: what its members read and write, where they act, and who feeds whom.

    ``selection``: a Selection, component names, a mask [n] of 0 and 1, or a Frontier, of which ``k`` names the size (by
    default the smallest with 90 % of the best effect). Figures are of the held-out pairs, or of the training pairs
    where none are; whatever the problem's mode, a member that is swapped takes the donor's value and all others run on.
    ``known``: role -> names or a Selection, shown beside (a circuit of ``ct.known`` gives its ``roles``). ``progress``
    shows what is done, how many pairs of it, of how many: True, False, or a function of these three; by default in
    terminals and notebooks. Costs at most 4 k^2 + 100 forward-equivalents: see ``ct.readout.predict``. Raises
    InputError for members outside the space.
    """
    members = _members(problem, selection, k)
    roles = _known(known)
    with stepping("explain", progress) as step:
        return _Explainer(problem, members, roles, step).made()


def _members(problem: LanguageProblem, selection: Any, k: int | None) -> tuple[Component, ...]:
    """The members, in the order of the space. Raises InputError."""
    if isinstance(selection, Frontier):
        selection = selection.enough() if k is None else selection.at(k)
    elif k is not None:
        raise InputError("ct.explain: k is the size of a frontier's selection; give a Frontier, or leave k out")
    selection = selection_of("ct.explain", selection, problem.space, problem.mode)
    members = selection.members
    if not members:
        raise InputError("ct.explain: the selection is empty; name at least one component, such as L9.head6")
    _check_inside(problem, members)
    return tuple(problem.space[i] for i in problem.space.indices(set(members)))


def _check_inside(problem: LanguageProblem, members: Sequence[Component]) -> None:
    """Raise InputError for a member that is not in the problem's space."""
    known = set(problem.space)
    strange = next((member for member in members if member not in known), None)
    if strange is not None:
        raise InputError(
            f"ct.explain: {strange} is not in this component space of {problem.space.outline}: name members of the "
            "space, or build the problem with the sites that hold it"
        )


def _known(known: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Name of a head or other unit -> roles that others have given it."""
    check_kind("ct.explain", "known", known, Mapping[str, Any] | None)
    found: dict[str, list[str]] = {}
    for role, names in (known or {}).items():
        for member in members_of("ct.explain", f"known[{role!r}]", names):
            found.setdefault(str(replace(member, role="all")), []).append(role)
    return found


def _feature(card: FeatureCard) -> Feature:
    return Feature(
        dictionary=card.dictionary,
        hook=card.hook,
        active_share=card.active_share,
        active=tuple(Active(**vars(one)) for one in card.active_on),
        promoted=card.promoted,
        suppressed=card.suppressed,
        link=card.link,
    )


Direct = Float[np.ndarray, "member pair"] | Float[np.ndarray, "member"]
"""Direct effects, of a metric of the whole set one each; not a number where it is not known."""


class _Explainer:
    def __init__(
        self,
        problem: LanguageProblem,
        members: Sequence[Component],
        known: Mapping[str, Sequence[str]],
        progress: Steps,
    ) -> None:
        self.problem, self.members, self.known, self.progress = problem, members, known, progress
        chooses = Changes.of(problem, "training", progress)
        judged = chooses if problem.heldout is None else Changes.of(problem, "held-out", progress)
        self.changes, self.chooses = judged, chooses
        self.notes: list[str] = []
        self.mean: dict[str, torch.Tensor] = {}

    def made(self) -> Explanation:
        """Everything, one part after the other."""
        _, groups = _cost(self.members)
        written, effects, table = self._written()
        paths, direct = self._paths(effects)
        acting, cost = act(self.problem, self.changes, self.members, groups)
        reads, examples, ov = self._read()
        features = self._features()
        cards = self._cards(paths, acting, written, direct, reads, ov, features)
        whole = None if table is None else self.changes.units_mean(table.logit_difference, table.pairs)
        several = any(len(pair.answers) > 1 for pair in self.changes.part.scorer.pairs)
        said = tuple(replace(card, words=words_of(card, paths, self.problem.metric, whole, several)) for card in cards)
        if paths.partial:
            self.notes.append(f"query, key and value are not told apart for {', '.join(paths.partial)}")
        self.notes += self._lacking(paths)
        spent = self.changes.spent + cost + (self.chooses.spent if self.chooses is not self.changes else 0)
        return Explanation(
            model=self.problem.model.name,
            task=self.problem.task,
            metric=self.problem.metric,
            donors=str(self.problem.question["donors"]),
            pairs=paths.pairs,
            cards=said,
            paths=paths,
            logit_difference=whole,
            parts=() if table is None else tuple(self._parts(table)),
            examples=tuple(examples),
            notes=tuple(self.notes),
            forward_equivalents=spent + _looks(self.members),
            contributions=table,
        )

    def _lacking(self, paths: Paths) -> Iterator[str]:
        """Why there are no intervals, and which pairs were not looked at."""
        if paths.together_interval is None:
            units = self.changes.units
            few = f"{paths.pairs} are too few: they take {FEWEST_UNITS}" + (" groups" if units.clustered else "")
            why = f"{self.problem.metric} is one number of the whole set" if units.enough else few
            yield f"no intervals, so effects and arrows are told by their size alone: {why}"
        if self.changes.part.size > MOST_PAIRS:
            yield f"what members read is of {MOST_PAIRS} pairs at most, evenly taken"

    def _parts(self, table: Contributions) -> list[tuple[str, float]]:
        means = [self.changes.units_mean(row, table.pairs) for row in table.table]
        return list(zip(table.names, means, strict=True))

    def _read(self) -> tuple[list[Read], Sequence[Example], dict[str, Ov]]:
        scorer = self.changes.part.scorer
        self.progress("what they read", 0, self.changes.part.size)
        reads, examples, lacking = read(self.problem, self.members, scorer.pairs)
        self.notes += lacking.values()
        looked = {one.component: [token for token, _ in one.tokens[:3]] for one in reads}
        heads = [member for member in self.members if member.site in HEADS]
        ov = {} if self.writer is None else output_rows(self.writer, self.members, self.mean)
        if heads and self.writer is not None:
            ov |= ov_maps(scorer, self.writer, heads, scorer.pairs, looked)
        self.progress("what they read", self.changes.part.size, self.changes.part.size)
        return reads, examples, ov

    def _features(self) -> dict[str, Feature]:
        """Describe the members that are features of dictionaries, on the prompts of both runs."""
        pairs = self.changes.part.scorer.pairs
        pairs = pairs[:: -(-len(pairs) // MOST_PAIRS)]
        prompts = dict.fromkeys(tuple(ids) for pair in pairs for ids in (pair.prompt, pair.donor or ()) if ids)
        if not any(member.site in FEATURE_SITES for member in self.members):
            return {}
        self.progress("what the features are", 0, len(pairs))
        try:
            cards = described(self.problem.model, self.members, list(prompts))
        except UnsupportedSite as error:
            self.notes.append(f"what the features are is left out: {error}")
            return {}
        self.progress("what the features are", len(pairs), len(pairs))
        return {card.component: _feature(card) for card in cards}

    def _written(self) -> tuple[list[Written], Direct, Contributions | None]:
        """Measure what members write, the direct part of their effects, and the table of contributions."""
        writer = writer_of(self.problem.model)
        self.writer = None if isinstance(writer, str) else writer
        if isinstance(writer, str):
            self.notes.append(f"what members write and do directly is left out: {writer}")
            return [Written(component=str(m)) for m in self.members], np.full(len(self.members), np.nan), None
        part = self.changes.part
        scorers = [part.scorer, *(draw.scorer for draw in (part.draws if isinstance(part, PairProblem) else ()))]
        tick = self.changes.ticking("what they write")
        runs = [Writes(scorer, self.members, writer).run(tick) for scorer in scorers]
        part.charge(2 * len(self.members) + 1)
        self.changes.spent += 2 * len(self.members) + 1
        self.notes += [*runs[0].unseen.values(), *([runs[0].nonlinear] if runs[0].nonlinear else [])]
        if runs[0].writer.unembedding.logit_scale is None:
            self.notes.append("parts are of the logits before the model's cap on them")
        weight = part.weights.double().cpu()
        self.mean = runs[0].mean
        written = [runs[0].member(i, weight) for i in range(len(self.members))]
        return written, self._direct(runs), runs[0].contributions

    def _direct(self, runs: Sequence[Writes]) -> Direct:
        part = self.changes.part
        if not isinstance(part, PairProblem):
            return np.array([float(part.change([scores])) for scores in runs[0].direct])
        made = [part.metric.effects(run.direct, run.scorer.base, part.answers) for run in runs]
        return torch.stack(made).mean(0).double().cpu().numpy()

    def _paths(self, effects: Direct) -> tuple[Paths, list[tuple[float | None, Interval | None]]]:
        """Measure who feeds whom, and the direct effects; the intervals of both hold together."""
        known = np.isfinite(effects.reshape(len(effects), -1).sum(1))
        paths, intervals = follow(
            self.changes, self.chooses, self.members, effects[known] if effects.ndim == 2 else None
        )
        values = [self.changes.units.mean(row) if effects.ndim == 2 else float(row) for row in effects[known]]
        direct = iter(zip(values, intervals or [None] * len(values), strict=True))
        return paths, [next(direct) if there else (None, None) for there in known]

    def _cards(
        self,
        paths: Paths,
        acting: Sequence[Acting],
        written: Sequence[Written],
        direct: Sequence[tuple[float | None, Interval | None]],
        reads: Sequence[Read],
        ov: Mapping[str, Ov],
        features: Mapping[str, Feature],
    ) -> list[Card]:
        """One for each member, in the order of layers."""
        own = {str(member): i for i, member in enumerate(self.members)}
        cards = []
        for alone in paths.members:
            i = own[alone.component]
            cards.append(
                Card(
                    component=alone.component,
                    alone=alone,
                    read=reads[i],
                    written=written[i],
                    direct=direct[i][0],
                    direct_interval=direct[i][1],
                    acting=tuple(one for one in acting if one.component == alone.component),
                    ov=ov.get(alone.component),
                    feature=features.get(str(replace(self.members[i], role="all"))),
                    known=tuple(self.known.get(str(replace(self.members[i], role="all")), ())),
                )
            )
        return cards
