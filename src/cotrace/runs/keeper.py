"""Keeper: keeps a run on disk while it goes on, seldom enough to cost next to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cotrace.errors import CotraceError, WorkersError
from cotrace.results import Frontier
from cotrace.runs.batches import extended
from cotrace.runs.checkpoint import Checkpoints
from cotrace.runs.log import Log
from cotrace.runs.manifest import Manifest
from cotrace.runs.results import Step
from cotrace.runs.state import RunState
from cotrace.search import SearchState

EVERY_S = 10.0
"""Seconds between checkpoints, at least, unless the configuration says otherwise."""
REST = 100.0
"""How many times as long as a checkpoint took nothing is written afterwards: it costs 1 % at most."""


class Keeper:
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
