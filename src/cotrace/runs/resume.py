"""A run taken up again: its configuration and record as it wrote them, and the same model, data and metric."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotrace.errors import InputError
from cotrace.runs.batches import going_on
from cotrace.runs.checkpoint import Checkpoints
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import read_run_config, write_config
from cotrace.runs.directory import CHECKPOINTS, CONFIG, TEMPORARY, sweep, write_atomically
from cotrace.runs.evidence import prepare_again
from cotrace.runs.identity import identity
from cotrace.runs.lock import locked
from cotrace.runs.manifest import Manifest, is_finished
from cotrace.runs.prepare import Prepared
from cotrace.runs.record import versions
from cotrace.runs.state import RunState


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
        config = replace(self.config, batch_tokens=batch_tokens)
        record = dict(self.record) | {"resumed_with": {"batch_tokens": batch_tokens}}
        write_atomically(self.folder / CONFIG, write_config(config, record))
        warnings.warn(
            f"{self.folder} goes on with batches of {batch_tokens} tokens: last digits may differ from those of an "
            "uninterrupted run",
            stacklevel=2,
        )
        return replace(self, config=config, record=record)

    def by(self, workers: Mapping[str, Any]) -> Begun:
        """The run gone on with by these workers, which changes no result; as it is where none are named."""
        return self if not workers else replace(self, config=replace(self.config, **workers))

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of this run."""
        return Checkpoints(self.folder, identity(self.config))

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
