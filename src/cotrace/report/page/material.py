"""Material: everything that a report is made of, read from the results of a run and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from cotrace.components import ComponentSpace
from cotrace.errors import InputError
from cotrace.report.page.examples import Example, Examples
from cotrace.report.page.plain import Edited, Plain
from cotrace.report.page.sentences import sentences
from cotrace.results import Frontier, Selection, Tradeoff
from cotrace.results.effects import EffectTable

if TYPE_CHECKING:
    from cotrace.evaluation import Evaluation
    from cotrace.readout import Explanation

Places = Int[np.ndarray, "_"]
"""Mask indices of a set's members, ascending."""
PARTS = ("heldout", "training")
PART_WORDS = {"heldout": "held-out pairs", "training": "training pairs"}


@dataclass(frozen=True)
class Material:
    """The results of one run. What a run did not compute is None or empty, and the page says so."""

    frontiers: tuple[Frontier, ...]
    """The first is the one that is shown in detail."""
    evaluations: tuple[Any, ...] = ()
    """``Evaluation`` records; the first judges in detail."""
    examples: Examples | None = None
    tradeoff: Tradeoff | None = None
    explanation: Explanation | None = None
    """What a set of the run does."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's config.yaml, with its record."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Name -> sha256 of the files that the page was made from."""
    redact: bool = False
    """Whether ids stand in place of texts."""
    plain: Plain | None = None
    """Shares of answers and rates by group, before and under the set that is judged."""
    edited: Edited | None = None
    """What the last edit of the run's selection did."""
    language: str = "en"
    """That of the first screen."""

    def __post_init__(self) -> None:
        sentences(self.language)
        object.__setattr__(
            self, "frontiers", tuple(map(self._with_evidence, (one for one in self.frontiers if len(one))))
        )
        if not self.frontiers:
            raise InputError("a report needs a frontier with at least one selection; run the search again")
        spaces = {one.space.components for one in self.frontiers}
        if len({(one.mode, one.metric, one.direction) for one in self.frontiers}) > 1 or len(spaces) > 1:
            raise InputError("a report is of one question: give frontiers of one metric, mode, direction and space")

    def _with_evidence(self, frontier: Frontier) -> Frontier:
        """The frontier with what its evaluations found, also where the run was judged again later."""
        from cotrace.evaluation import applied

        for judged in self.evaluations:
            if judged.search == frontier.search and set(judged.components) == _names(frontier, judged.k):
                frontier = applied(frontier, judged)
        return frontier

    @property
    def first(self) -> Frontier:
        """The search that is shown in detail."""
        return self.frontiers[0]

    @property
    def judged(self) -> Evaluation | None:
        """The evaluation that judges the first search; None where it was not judged."""
        return next((one for one in self.evaluations if one.search == self.first.search), None)

    @property
    def later(self) -> tuple[Evaluation, ...]:
        """The other evaluations."""
        return tuple(one for one in self.evaluations if one is not self.judged)

    @cached_property
    def chosen(self) -> Selection:
        """The selection that is judged: the evaluation's, or the smallest with 90 % of the best effect."""
        judged = self.judged
        if judged is not None and judged.k in self.first.sizes:
            return self.first.at(judged.k)
        return self.first.enough()

    @property
    def record(self) -> Mapping[str, Any]:
        """What was found out by running: versions, hashes, sizes."""
        found = self.config.get("record") or {}
        return found if isinstance(found, Mapping) else {}

    @property
    def heldout(self) -> bool:
        """Whether any effect is known on held-out pairs."""
        return any(one.effect_heldout is not None for frontier in self.frontiers for one in frontier)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the data that effects are known of, the unseen first."""
        return PARTS if self.heldout else PARTS[1:]

    def shown(self) -> Material:
        """The same without texts where they are not to be shown."""
        if not self.redact:
            return self
        from cotrace.evaluation import with_verdict  # needs torch, which a page of results does not

        examples = None if self.examples is None else self.examples.redacted()
        evaluations = tuple(
            with_verdict(replace(one, notes=tuple(map(_without_quote, one.notes)))) for one in self.evaluations
        )
        explanation = None if self.explanation is None else self.explanation.redacted()
        return replace(self, examples=examples, evaluations=evaluations, explanation=explanation)

    def pairs(self, part: str) -> tuple[Example, ...]:
        """The pairs of a part; by number where no texts are at hand."""
        table = self.table(self.first, part)
        count = 0 if table is None else table.effects.shape[1]
        known = self.examples.of(part) if self.examples is not None else ()
        if len(known) == count:
            return known
        return tuple(Example(f"{PART_WORDS[part].removesuffix('s')} {i}") for i in range(1, count + 1))

    def weights(self, part: str, count: int) -> Float[np.ndarray, "example"]:
        """How much each pair counts."""
        known = self.examples.of(part) if self.examples is not None else ()
        return np.array([one.weight for one in known]) if len(known) == count else np.ones(count)

    def table(self, frontier: Frontier, part: str) -> EffectTable | None:
        """Per-example effects of the sets that were evaluated on a part; None where there are none."""
        found = frontier.effects if part == "training" else frontier.effects_heldout
        return found if found is not None and found.n == len(frontier.space) else None

    @cached_property
    def space(self) -> ComponentSpace:
        """The components as the page has them: by place, in however small pieces the space names them."""
        return self.first.space.by_place

    @cached_property
    def order(self) -> Places:
        """The mask index of each component of the page."""
        index = {component: i for i, component in enumerate(self.first.space)}
        return np.array([index[component] for component in self.space], np.int64)

    @cached_property
    def _places(self) -> dict[int, Places]:
        return {}

    def places(self, selection: Selection) -> Places:
        """Where a selection's members are on the page; looked up once, as large sets take a while."""
        key = id(selection)
        if key not in self._places:
            self._places[key] = np.array(self.space.indices(selection.members), np.int64)
        return self._places[key]

    def example_effects(self, places: Places, part: str) -> Float[np.ndarray, "example"] | None:
        """The effects of the set at these places on each pair; None where no search kept them."""
        chosen = np.zeros(len(self.space), bool)
        chosen[self.order[places]] = True
        key = np.packbits(chosen).tobytes()
        for one in self.frontiers:
            table = self.table(one, part)
            if table is not None and (found := table.find(key)) is not None:
                return found.astype(np.float64)
        return None

    def mean_effect(self, places: Places) -> float | None:
        """The weighted mean of a set's effects on the pairs searched; None where no search evaluated it."""
        found = self.example_effects(places, "training")
        return None if found is None else float(np.average(found, weights=self.weights("training", len(found))))


def _names(frontier: Frontier, k: int) -> set[str]:
    """The members of the selection of this size; none where there is no such selection."""
    return set(frontier.at(k).components) if k in frontier.sizes else set()


def _without_quote(note: str) -> str:
    """A note up to the error that it quotes, which may hold a text."""
    return note.partition(":")[0]
