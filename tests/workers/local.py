"""Workers without Ray: replicas in this process, which get what actors would get and keep what actors would keep."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from cotrace.errors import InputError
from cotrace.workers.shares import Sent
from cotrace.workers.worker import Replica
from cotrace.workers.workers import Unit, Workers


class LocalWorkers(Workers):
    """Batches go to replicas drawn by seed, and come back in an order drawn by seed."""

    def __init__(self, number: int, seed: int = 0, through: Callable[[Any], Any] = lambda value: value) -> None:
        self.count, self._draw, self._through = number, random.Random(seed), through
        self._numbers, self._keys = count(), count()
        self._home, self.batches = {}, 0
        from weakref import WeakKeyDictionary

        self._models, self._questions = WeakKeyDictionary(), WeakKeyDictionary()
        self.replicas = [Replica(1, fetch=lambda ref: ref) for _ in range(number)]
        self.asked: list[Unit] = []

    def _put(self, value: Any) -> Sent:
        return Sent(str(next(self._keys)), self._through(value))

    def _run(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        for unit in self._draw.sample(list(units), len(units)):
            self.asked.append(unit)
            question, *rest = unit.arguments
            replica = self._draw.choice(self.replicas)
            yield unit, getattr(replica, unit.method)(question, unit.batch, *rest)


def job(path: Path, answer: str) -> str:
    """Says who it is, and ends once it is allowed to."""
    if answer == "fails":
        raise InputError("this job cannot be done")
    with path.with_suffix(".pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not path.exists():
        time.sleep(0.05)
    return answer
