"""``cotrace edit``, on a stored run that is opened again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from cotrace import report
from cotrace.cli.console import Screen, own_threads, quiet_libraries
from cotrace.cli.options import Editing
from cotrace.editing import Limit, Side, apply, harness, neutral, save, second_task, tradeoff
from cotrace.editing.apply import changes, checked_donor, checked_factor, stand_alone
from cotrace.editing.fold import fold_changes
from cotrace.editing.generation import own_settings
from cotrace.editing.rescoring import compare, installed
from cotrace.editing.save import Card, check_free
from cotrace.editing.scoring import Parts, ScoredTask
from cotrace.editing.side_effects import check_limits
from cotrace.errors import DegenerateError, InputError
from cotrace.metrics import GROUPS
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.problem.goals import high_loss, loss_of
from cotrace.prompts import Task
from cotrace.report.page import EDIT, Edited
from cotrace.results import Frontier, Selection
from cotrace.results.outcomes import Outcome, Tradeoff, outcome_table
from cotrace.results.table import frame_csv
from cotrace.run_folder.folder import TRADEOFF
from cotrace.runs.addenda import check_same, check_same_data, check_same_model
from cotrace.runs.config import RunConfig
from cotrace.runs.manifest import add_files
from cotrace.runs.prepare import (
    Prepared,
    check_metric,
    pose,
    use_threads,
)
from cotrace.runs.provenance import versions
from cotrace.runs.result_files import StoredRun
from cotrace.tasks import load as named_task


@dataclass(frozen=True)
class Reopened:
    """Everything of a run that edits need; large parts are loaded on first use."""

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
        task = self.config.load_task()
        if self.config.leaves_text_to_model:
            return self.config.suited_task(task, self.model)
        if not self.other_model:
            check_same_data(self.run.path, task)
        return task

    @cached_property
    def model(self) -> LanguageModel:
        """The run's model, by its hashes, or the other that was named. Raises InputError."""
        model = self.config.load_model()
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


FACTORS = (-0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 0.75)
"""Factors that are tried where constraints are given and no donor is."""
LARGEST_DIFFERENCE = 1e-3


def limits_of(asked: Editing) -> tuple[Limit, ...]:
    """The bounds on side effects. Raises InputError."""
    return tuple(map(Limit.parse, asked.constraint))


def donors_of(asked: Editing) -> list[str]:
    """The donors to try."""
    if asked.donor is not None:
        return [asked.donor]
    factors = asked.factors or (FACTORS if asked.constraint else (0.0,))
    return [f"scale={checked_factor(factor):g}" for factor in factors]


def sizes_of(asked: Editing, found: Sequence[int]) -> list[int]:
    """The sizes to try: those asked for, or sixteen over the frontier's."""
    return [asked.k] if asked.k is not None else list(asked.sizes) or spread(found)


def spread(sizes: Sequence[int], most: int = 16) -> list[int]:
    """At most this many of the sizes, evenly over their logarithms, the first and the last among them."""
    if len(sizes) <= most:
        return list(sizes)
    ratio = (len(sizes)) ** (1 / (most - 1))
    return [sizes[i] for i in sorted({min(len(sizes), max(1, round(ratio**step))) - 1 for step in range(most)})]


@own_threads()
def edit(
    run: str,
    asked: Editing,
    out: str,
    *,
    search: str | None = None,
    model: str | None = None,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Choose, fold, measure, save. Raises CotraceError before anything is written."""
    asked.check()
    limits = limits_of(asked)
    path = check_free(out)
    screen = Screen(quiet, as_json)
    quiet_libraries()
    reopened = Reopened.read(run, model=model, search=search)
    watched = sides(asked.neutral, asked.second_task)
    check_limits(limits, watched)
    selections = [reopened.selection(k) for k in sizes_of(asked, reopened.frontier.sizes)]
    donors = donors_of(asked)
    for donor in donors:
        checked_donor(donor)
    if asked.lm_eval:
        installed()
    task = reopened.task  # data is read before the model is loaded
    check_metric(asked.metric or reopened.config.metric, task)
    screen.note(f"loading {reopened.config.model}")
    watched = [side.of(reopened.model) for side in watched]
    found = _tradeoff(reopened, asked, selections, donors, watched, screen)
    selection, donor = _choice(found, selections, donors)
    edited, difference = _folded(reopened, selection, donor)
    outcomes = compare(
        reopened.model,
        task,
        edited,
        metric=asked.metric or reopened.config.metric,
        sides=watched,
        ids=reopened.parts.heldout,
        clusters=reopened.parts.clusters,
    )
    outcomes += _harness(reopened, asked, selection, donor)
    where = "on held-out pairs" if reopened.holds_out else "on training pairs, nothing was held out"
    screen.say(outcome_table(f"k = {selection.k}, {donor}, {where}", outcomes))
    card = _card(reopened, selection, donor, outcomes, difference, asked, _texts(reopened.model, watched))
    save(edited, path, card.text(), card.record(), _files(found))
    told = Edited(selection.k, donor, reopened.holds_out, tuple(outcomes), difference)
    shown = {EDIT: told.to_json()} | ({} if found is None else {TRADEOFF: found.to_json()})
    add_files(reopened.run.path, shown)  # `cotrace report RUN` shows them
    screen.say(f"Largest difference between folded and hooked log-probabilities: {difference:.2g}")
    screen.say(f"Written to {path}: {' '.join(selection.components)}")
    screen.data(
        "edit",
        lambda: {
            "written": str(path),
            "k": selection.k,
            "donor": donor,
            "components": selection.components,
            "unseen": reopened.holds_out,
            "outcomes": [asdict(one) for one in outcomes],
            "largest_difference": difference,
            "tradeoff": None if found is None else json.loads(found.to_json()),
        },
    )


def _tradeoff(
    reopened: Reopened,
    asked: Editing,
    selections: Sequence[Selection],
    donors: Sequence[str],
    watched: Sequence[Side],
    screen: Screen,
) -> Tradeoff | None:
    """The trade-off where there is a choice to make; None for one edit without constraints."""
    if len(selections) * len(donors) == 1 and not asked.constraint:
        return None
    metric = asked.metric or reopened.config.metric or reopened.task.metric
    found = tradeoff(
        reopened.model,
        reopened.task,
        selections,
        donors,
        metric=metric,
        aim=None if metric in GROUPS else reopened.frontier.direction,
        sides=watched,
        limits=limits_of(asked),
        parts=reopened.parts,
        progress=screen.note,
    )
    screen.say(found.table())
    return found


def _choice(found: Tradeoff | None, selections: Sequence[Selection], donors: Sequence[str]) -> tuple[Selection, str]:
    """The strongest edit that keeps the constraints. Raises DegenerateError where none does."""
    if found is None:
        return selections[0], donors[0]
    if (best := found.best) is None:
        mildest = min(found.points, key=lambda point: max(point.harms))
        raise DegenerateError(
            f"no edit of {len(found)} moves {found.metric} as it should within "
            f"{'; '.join(found.constraints) or 'no bounds'}; the mildest (k = {mildest.k}, {mildest.donor}) "
            f"harms by {max(mildest.harms):.2%}: loosen the constraints, or try other --sizes and --factors"
        )
    return next(s for s in selections if s.k == best.k), best.donor


def _folded(reopened: Reopened, selection: Selection, donor: str) -> tuple[LanguageModel, float]:
    """The folded model, and how far its scores of the task are from the hooked model's."""
    reference = reopened.reference if donor.startswith("mean") else None
    edits = changes(reopened.model, selection, stand_alone(donor, reopened.model, reference))
    edited = fold_changes(reopened.model, edits)
    part = ScoredTask(reopened.model, reopened.task, reopened.parts.heldout)
    with apply(reopened.model, selection, donor, reference=reference):
        hooked = part.scores()
    return edited, (part.scores(edited) - hooked).abs().max().item()


def _harness(reopened: Reopened, asked: Editing, selection: Selection, donor: str) -> list[Outcome]:
    if not asked.lm_eval:
        return []
    return harness(
        reopened.model,
        selection,
        donor,
        tasks=asked.lm_eval,
        limit=asked.lm_eval_limit,
        reference=reopened.reference if donor.startswith("mean") else None,
    )


def _texts(model: LanguageModel, watched: Sequence[Side]) -> list[str]:
    """Which neutral texts were used, and where the model does not know one."""
    texts = [side.task for side in watched if side.task.encoding == "text"]
    notes = [f"The neutral text {task.name} is {task.source}." for task in texts]
    return notes + [said for task in texts if (said := high_loss(model, task, loss_of(model, task)))]


def _card(
    reopened: Reopened,
    selection: Selection,
    donor: str,
    outcomes: Sequence[Outcome],
    difference: float,
    asked: Editing,
    said: Sequence[str],
) -> Card:
    config = reopened.config
    notes = [
        f"The traced task is {reopened.task.name}; donors of the search: {config.donor_words}; seed {config.seed}."
    ]
    if own := own_settings(reopened.model):
        named = ", ".join(f"{name} {value}" for name, value in own.items())
        notes.append(f"Text drawn from it is drawn by the generation_config of the base model: {named}.")
    notes += said
    if asked.constraint:
        bounds = "; ".join(limit.words for limit in limits_of(asked))
        notes.append(f"Chosen as the strongest edit within {bounds}; a choice among many flatters the one chosen.")
    return Card(
        base_model=reopened.model.name,
        revision=config.revision,
        donor=donor,
        components=selection.components,
        question=reopened.frontier.summary or f"{reopened.frontier.metric} on {reopened.frontier.task}",
        outcomes=outcomes,
        largest_difference=difference,
        unseen=reopened.holds_out,
        versions=versions(),
        command=f"cotrace edit RUN --k {selection.k} --donor {shlex.quote(donor)} --out DIR",
        notes=notes,
    )


def _files(found: Tradeoff | None) -> dict[str, bytes]:
    """The trade-off as a table and a figure."""
    if found is None:
        return {}
    table = frame_csv(found.to_frame())
    return {"tradeoff.csv": table, "tradeoff.png": report.to_png(report.tradeoff(found))}
