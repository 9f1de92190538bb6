"""``open_run``: a finished run in Python, from results alone; model and data are loaded when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cotrace import markup
from cotrace.errors import unknown
from cotrace.evaluation import Evaluation
from cotrace.problem import LanguageProblem
from cotrace.readout import Explanation
from cotrace.readout.files import NAMES
from cotrace.results import Frontier, Table
from cotrace.runs import RunConfig
from cotrace.runs.added import read_evaluation, read_explanation
from cotrace.runs.evidence import EVALUATION, prepare_again, with_effects
from cotrace.runs.manifest import holds
from cotrace.runs.stored import StoredRun


@dataclass(frozen=True)
class Run:
    """A finished run: what was asked, and what was found."""

    path: Path
    config: RunConfig
    """The question as options; ``direction`` is the one that the run took."""
    frontiers: tuple[Frontier, ...]
    """One for each search, with the effects on every pair that the run kept."""
    evaluation: Evaluation | None
    """How the first search's result was judged; None where it was not."""
    explanation: Explanation | None = None
    """What the members of one of its sets do; None where that was not asked."""

    @property
    def frontier(self) -> Frontier:
        """The first search's."""
        return self.frontiers[0]

    def of(self, search: str) -> Frontier:
        """The frontier of a search. Raises UnknownName."""
        by_name = {one.search: one for one in self.frontiers}
        if search not in by_name:
            raise unknown("search", search, by_name)
        return by_name[search]

    @cached_property
    def problem(self) -> LanguageProblem:
        """The problem that it was found on: loads data and model, and refuses others than the run's by their hashes.

        Raises CotraceError.
        """
        return prepare_again(self.path, self.config).problem

    def table(self) -> Table:
        """The first search's frontier."""
        return self.frontier.table()

    def __str__(self) -> str:
        return f"{self.path}: {self.frontier.summary}\n{self.table()}"

    def _repr_html_(self) -> str:
        return markup.paragraph(str(self.path)) + self.frontier._repr_html_()


def open_run(folder: str | Path) -> Run:
    """A finished run in a folder that ``cotrace trace`` or ``ct.save_run`` has written; nothing is computed.

    Raises InputError where there is none, DamagedRun where a file is not as it was written.
    """
    stored = StoredRun.read(folder)
    frontiers = tuple(with_effects(stored.path, frontier) for frontier in stored.frontiers)
    judged = read_evaluation(stored.path / EVALUATION) if holds(stored.path, EVALUATION) else None
    told = read_explanation(stored.path / NAMES[0]) if holds(stored.path, NAMES[0]) else None
    return Run(stored.path, stored.question, frontiers, judged, told)
