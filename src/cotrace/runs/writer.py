"""RunWriter writes a run while it goes on and when it ends; a run that was stopped is taken up again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotrace.errors import CotraceError, InputError, WorkersError
from cotrace.evaluation import Evaluation
from cotrace.results import Frontier
from cotrace.runs.addenda import EFFECTS, EVALUATION, effects_safetensors, evaluation_json, prepare_again
from cotrace.runs.checkpoint import Checkpoints, RunState, extended, going_on
from cotrace.runs.config import RunConfig, identity
from cotrace.runs.config_file import amend_config, options_in, read_run_config
from cotrace.runs.directory import CHECKPOINTS, CONFIG, TEMPORARY, Log, locked, sweep
from cotrace.runs.manifest import Manifest, is_finished
from cotrace.runs.prepare import Prepared
from cotrace.runs.provenance import versions
from cotrace.runs.result_files import Step, frontier_csv, history_csv, masks_safetensors, selection_json
from cotrace.search import SearchState


def run_files(
    frontiers: Sequence[Frontier], steps: Sequence[Step], evaluation: Evaluation | None = None
) -> dict[str, bytes]:
    """Name -> content of the files of a run, figures and config.yaml aside."""
    judged = {} if evaluation is None else {EVALUATION: evaluation_json(evaluation)}
    return judged | {
        "history.csv": history_csv(steps),
        EFFECTS: effects_safetensors(frontiers),
        "masks.safetensors": masks_safetensors(frontiers),
        "selection.json": selection_json(frontiers),
        "frontier.csv": frontier_csv(frontiers),
    }


EVERY_S = 10.0
"""Seconds between checkpoints, at least, unless the configuration says otherwise."""
REST = 100.0
"""How many times as long as a checkpoint took nothing is written afterwards: it costs 1 % at most."""


class RunWriter:
    """Notes every step of a run, and writes where it stands when that is due, or when the run is stopped."""

    def __init__(
        self,
        run: Path,
        checkpoints: Checkpoints,
        begun: RunState,
        every_s: float | None = None,
        *,
        batch_plan: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.run, self.log, self._checkpoints = run, Log(run), checkpoints
        self._batch_plan, self._before_plan = batch_plan, begun.batch_plan
        self._every_s = every_s
        self._frontiers, self._steps = list(begun.frontiers), list(begun.steps)
        self._search, self._before_s = begun.search, begun.elapsed_s
        self._began = self._written = time.monotonic()
        self._saved = len(self._steps), len(self._frontiers)

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return RunState(
            frontiers=tuple(self._frontiers),
            steps=tuple(self._steps),
            search=self._search,
            elapsed_s=self.elapsed_s,
            batch_plan=None if self._batch_plan is None else extended(self._before_plan, self._batch_plan()),
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds that the search under way has taken, over all parts of an interrupted run."""
        return self._before_s + time.monotonic() - self._began

    def begin(self) -> SearchState | None:
        """Note that a search begins; gives where it stood when the run was interrupted."""
        self._began = time.monotonic()
        return self._search

    def step(self, step: Step, state: SearchState) -> None:
        """Note a step of the search under way."""
        self._steps.append(step)
        self._search = state
        self._write_if_due()

    def done(self, frontier: Frontier) -> None:
        """Note that the search under way has come to its end."""
        self._frontiers.append(frontier)
        self._search, self._before_s = None, 0.0
        self._began = time.monotonic()
        self._write_if_due()

    def _write_if_due(self) -> None:
        if self._every_s is None:
            due_s = max(EVERY_S, REST * self._checkpoints.took_s)
        else:
            due_s = max(self._every_s, REST * self._checkpoints.took_s if self._every_s else 0.0)
        if time.monotonic() - self._written >= due_s:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, unless the last one says it all. Raises OSError."""
        now = len(self._steps), len(self._frontiers)
        if now != self._saved:
            self._checkpoints.save(self.state)
            self._saved = now
            self.log.say(f"checkpoint after {now[0]} steps, written in {self._checkpoints.took_s:.3f} s")
        self._written = time.monotonic()

    def finish(self) -> None:
        """Write the manifest, which says that the run is whole, and remove the checkpoints."""
        self.log.say("finished")
        Manifest.of(self.run).write()
        self._checkpoints.remove()

    def stop(self, reason: BaseException) -> None:
        """Save what can be saved of a run that is being stopped, and note on the reason how to go on.

        A mistake of the user's before anything is worth keeping is not kept: the same would come again.
        """
        mistake = isinstance(reason, CotraceError) and not isinstance(reason, WorkersError)
        if mistake and not (self._frontiers or self._checkpoints.exist()):
            return
        try:
            self.save()
            self.log.say(f"stopped: {type(reason).__name__}: {reason}")
        except (OSError, MemoryError) as error:
            reason.add_note(f"its last steps could not be saved ({error})")
        new = not self._checkpoints.exist()
        reason.add_note(f"go on{' from the beginning' if new else ''} with: cotrace resume {self.run}")


@dataclass(frozen=True)
class Begun:
    """A run directory as its run left it, nothing loaded or computed."""

    folder: Path
    config: RunConfig
    record: Mapping[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Begun:
        """The run in a folder. Raises DamagedRun, InputError where there is none."""
        path = Path(folder)
        if not path.is_dir():
            raise InputError(f"there is no run {path}: give the folder that cotrace trace has begun to write")
        if not (path / CONFIG).is_file():
            raise InputError(f"{path} is not a run: it holds no {CONFIG}; give the folder that cotrace trace named")
        return cls(path, *read_run_config(path))

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end. Raises DamagedRun where a file of it is not as it was written."""
        if not is_finished(self.folder):
            return False
        manifest = Manifest.read(self.folder)
        manifest.check(manifest.files)
        return True

    def tidy(self) -> None:
        """Remove what a finished run has left because it was killed while it tidied up. Raises RunBusy."""
        if any(self.folder.glob(f".*{TEMPORARY}")) or (self.folder / CHECKPOINTS).exists():
            with locked(self.folder):
                sweep(self.folder)
                self.checkpoints.remove()

    def with_batches(self, batch_tokens: int) -> Begun:
        """The run with smaller batches from here on, which its config.yaml says. Only for who holds the lock.

        Warns: sums over other batches differ in their last digits.
        """
        fewer = {"batch_tokens": batch_tokens}
        amend_config(self.folder, fewer, {"resumed_with": fewer})
        warnings.warn(
            f"{self.folder} goes on with batches of {batch_tokens} tokens: last digits may differ from those of an "
            "uninterrupted run",
            stacklevel=2,
        )
        return Begun.read(self.folder).by(self.config.of_workers)

    def by(self, workers: Mapping[str, Any]) -> Begun:
        """The run gone on with by these workers, which changes no result; as it is where none are named."""
        return self if not workers else replace(self, config=replace(self.config, **workers))

    @property
    def checkpoints(self) -> Checkpoints:
        """Checkpoints of this run."""
        return Checkpoints(self.folder, identity(self.config, options_in(self.folder)))

    def prepared(self, state: RunState) -> Prepared:
        """Model, data, problem and searches as the run had them there, with its number of threads and its batches.

        Raises CotraceError; warns of other versions of what computes.
        """
        threads = self.record.get("threads")
        config = replace(
            self.config,
            threads=threads if isinstance(threads, int) else self.config.threads,
            direction=self.config.direction or self.record.get("direction"),
        )
        prepared = prepare_again(self.folder, going_on(config, state.batch_plan))
        self._check_versions()
        return replace(prepared, config=self.config)

    def _check_versions(self) -> None:
        was, now = self.record.get("versions") or {}, versions()
        for name in now:
            if was.get(name) != now[name]:
                warnings.warn(
                    f"{self.folder} was begun with {name} {was.get(name)} and this is {now[name]}: last digits may "
                    "differ from those of an uninterrupted run",
                    stacklevel=3,
                )
