"""log.txt: what happened to a run and when, one line at a time; it is read by people only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cotrace.errors import DamagedRun
from cotrace.runs.directory import LOG, naming
from cotrace.visible import visible


@dataclass(frozen=True)
class Log:
    """The log of the run in a folder."""

    folder: Path

    def say(self, what: str) -> None:
        """Add a line with the time in UTC; the file is closed again at once, so that a kill loses nothing.

        Raises DamagedRun where the log is a link: in somebody's run it may lead to a file that is none of the run's.
        """
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self.folder / LOG
        if path.is_symlink():
            raise DamagedRun(f"{path} is a link, which no run writes: delete it")
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {visible(' '.join(what.split()))}\n")
