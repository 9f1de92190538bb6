"""Heldout: the pairs of a problem that no search sees, as a problem of their own."""

from __future__ import annotations

from functools import cached_property, partial
from typing import TYPE_CHECKING

from cotrace.arguments import guarded
from cotrace.problem.pairs import PairProblem, input_gradient
from cotrace.problem.protocol import Direction
from cotrace.problem.summary import full_swap
from cotrace.problem.whole import SetProblem

if TYPE_CHECKING:
    from cotrace.problem.language import LanguageProblem


@guarded("Heldout", fields=False)
class Heldout:
    """A problem's unseen pairs, with the problem's own space, mode and direction."""

    heldout = None

    def __init__(
        self, whole: LanguageProblem, part: PairProblem | SetProblem, name: str = "held out", drawn: str = ""
    ) -> None:
        self._whole, self._part = whole, part
        self.drawn = drawn
        """Which of the held-out pairs these are, in words; empty where they are all."""
        self.space, self.mode = whole.space, whole.mode
        self.metric, self.task, self.summary = whole.metric, f"{whole.task} ({name})", whole.summary
        self.size, self.cost, self.ids = part.size, part.cost, part.ids
        self.effects, self.value, self.gradient = part.effects, part.value, part.gradient
        self.input_gradient = partial(input_gradient, part)
        self.scores, self.side_values = part.scores, part.side_values
        self.reported, self.surrogate, self.target = part.reported, whole.surrogate, whole.target
        self.value_and_effects = part.value_and_effects
        if isinstance(part, SetProblem):
            self.redrawn, self.strata = part.redrawn, part.strata
        self.weights, self.clusters = part.weights, whole.groups_of(part.ids)

    @property
    def direction(self) -> Direction:
        """The problem's own. Raises NoDirection."""
        return self._whole.direction

    @cached_property
    def full_is_clear(self) -> bool:
        """Whether these pairs show that swapping everything moves the metric, beyond rounding and chance."""
        return full_swap(self._part, self.clusters).is_clear

    @property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return self._part.reported_base
