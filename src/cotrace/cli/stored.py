"""A stored run put to work again: its model, its task and a selection of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cotrace.editing import Side, neutral, second_task
from cotrace.editing.tradeoff import Parts
from cotrace.errors import InputError
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import Task
from cotrace.results import Frontier, Selection
from cotrace.runs.config import RunConfig
from cotrace.runs.evidence import check_same, check_same_data, check_same_model
from cotrace.runs.prepare import Prepared, chosen_by_model, load, load_task, pose, suited_task, use_threads
from cotrace.runs.stored import StoredRun
from cotrace.tasks import load as named_task


@dataclass(frozen=True)
class Reopened:
    """Everything of a run that edits need; what is large is loaded on first use."""

    run: StoredRun
    frontier: Frontier
    other_model: bool = False
    """Whether another model than the run's was named, which may have other weights."""

    @classmethod
    def read(cls, path: str, *, model: str | None = None, search: str | None = None) -> Reopened:
        """The run in a folder. Raises InputError."""
        run = StoredRun.read(path, model=model)
        return cls(run, run.frontier(search), model is not None)

    @property
    def config(self) -> RunConfig:
        return self.run.config

    @cached_property
    def task(self) -> Task:
        """The run's task, from its data."""
        task = load_task(self.config)
        if chosen_by_model(self.config):
            return suited_task(self.config, task, self.model)
        if not self.other_model:
            check_same_data(self.run.path, task)
        return task

    @cached_property
    def model(self) -> LanguageModel:
        """The run's model, by its hashes, or the other that was named. Raises InputError."""
        model = load(self.config)
        if not self.other_model:
            check_same_model(self.run.path, self.config, model)
        use_threads(self.config, model)
        return model

    @cached_property
    def parts(self) -> Parts:
        """The pairs that the search saw, and those held out; the same where nothing was. Raises InputError."""
        problem: LanguageProblem = pose(self.run.question, self.model, self.task)
        if not self.other_model:
            check_same(self.run.path, Prepared(self.config, self.task, self.model, problem, ()))
        return Parts.of_problem(problem)

    @property
    def holds_out(self) -> bool:
        """Whether edits are judged on pairs that the search has not seen."""
        return self.config.holdout > 0

    @property
    def reference(self) -> Task:
        """The task with the pairs that the search saw: what ``mean=task`` is taken over."""
        return self.parts.reference(self.task)

    def selection(self, k: int) -> Selection:
        """The selection of exactly k. Raises InputError, also for a run in ``keep`` mode."""
        if self.frontier.mode == "keep":
            raise InputError(
                f"{self.run.path} is a run in keep mode, whose selections are what to leave alone; edits take what to "
                "change: run it with --mode swap"
            )
        return self.frontier.at(k)


def sides(path: str | None, others: Sequence[str]) -> list[Side]:
    """The neutral text (the one that ships, or a file), and further tasks by name or file."""
    return [neutral(path), *(second_task(named_task(name)) for name in others)]
