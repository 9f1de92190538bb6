"""The checkpoints of a run: numbered, each sealed by its own hash; the one before stays until the new one is there."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cotrace.errors import CotraceError, DamagedRun
from cotrace.runs.directory import CHECKPOINTS, sweep, write_atomically
from cotrace.runs.manifest import Fingerprint
from cotrace.runs.sealed import seal, unseal
from cotrace.runs.state import RunState, frontier_tensors

SCHEMA = 2
KEPT = 2
Parts = dict[str, Fingerprint]
"""The files that a checkpoint consists of beside its JSON: name -> fingerprint."""


class Checkpoints:
    """The folder ``checkpoint`` of a run. What is written by a finished search is written once."""

    def __init__(self, run: Path, identity: str) -> None:
        self.folder = run / CHECKPOINTS
        self._identity = identity
        self._number = max(self._numbers(), default=0)
        self._kept: dict[int, Parts] = {}
        self.took_s = 0.0
        """Seconds that the last checkpoint took to write."""

    @property
    def _is_folder(self) -> bool:
        """Whether it is there. Raises DamagedRun for a link: what it leads to is not this run's to delete."""
        if self.folder.is_symlink():
            raise DamagedRun(f"{self.folder} is a link and no folder of the run's own: remove it to begin anew")
        return self.folder.is_dir()

    def _numbers(self) -> list[int]:
        """The numbers of the checkpoints that are there, ascending. Raises DamagedRun."""
        if not self._is_folder:
            return []
        return sorted(int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdigit())

    def exist(self) -> bool:
        """Whether there is any checkpoint."""
        return bool(self._numbers())

    def save(self, at: RunState) -> None:
        """Write the next checkpoint; then all but the one before it go. Raises OSError."""
        began = time.perf_counter()
        self.folder.mkdir(exist_ok=True)
        self._number += 1
        parts = self._parts(at)
        payload = {"schema": SCHEMA, "run": self._identity, "parts": {name: asdict(p) for name, p in parts.items()}}
        write_atomically(self._path(self._number), seal(payload | at.to_data()))
        self._forget(parts)
        self.took_s = time.perf_counter() - began

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.json"

    def _parts(self, at: RunState) -> Parts:
        """Write what is not there yet."""
        known = {name: part for parts in self._kept.values() for name, part in parts.items()}
        found = {}
        for i, frontier in enumerate(at.frontiers):
            name = f"done-{i}.safetensors"
            found[name] = known.get(name) or self._write(name, frontier_tensors(frontier))
        name = f"search-{self._number:06}.safetensors"
        return found | {name: self._write(name, at.tensors())}

    def _write(self, name: str, tensors: Mapping[str, Tensor]) -> Fingerprint:
        content = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        write_atomically(self.folder / name, content)
        return Fingerprint.of(content)

    def _forget(self, parts: Parts) -> None:
        """Keep the checkpoint just written and the one before it."""
        self._kept = {number: self._kept[number] for number in sorted(self._kept)[-(KEPT - 1) :]}
        self._kept[self._number] = parts
        wanted = {self._path(number).name for number in self._kept} | {n for p in self._kept.values() for n in p}
        self._delete(path for path in self._own() if path.name not in wanted)

    def _own(self) -> list[Path]:
        """The files that checkpoints consist of; whatever else lies there is somebody else's."""
        return [path for path in self.folder.iterdir() if path.suffix in (".json", ".safetensors")]

    def _delete(self, paths: Iterable[Path]) -> None:
        """JSON before the parts that it names: a checkpoint that is there is whole, also where a kill comes between."""
        for path in sorted(paths, key=lambda path: path.suffix != ".json"):
            path.unlink()

    def load(self) -> RunState:
        """Where the run stood at the newest checkpoint that is whole; warns of one that is not. Raises OSError."""
        if not self._is_folder:
            return RunState()
        sweep(self.folder)
        for number in reversed(self._numbers()):
            try:
                found, parts = self._read(number)
            except DamagedRun as error:
                warnings.warn(f"{error}; going on from the one before it, or from the beginning", stacklevel=2)
            else:
                self._kept = {number: parts}
                return found
        return RunState()

    def _read(self, number: int) -> tuple[RunState, Parts]:
        """One checkpoint. Raises DamagedRun."""
        path = self._path(number)
        payload = unseal(path)
        try:
            return self._read_parts(payload)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, CotraceError, SafetensorError) as error:
            raise DamagedRun(f"the checkpoint {path} is damaged ({error})") from None

    def _read_parts(self, payload: dict[str, Any]) -> tuple[RunState, Parts]:
        if payload["schema"] != SCHEMA or payload["run"] != self._identity:
            raise DamagedRun("it is of another run or another version of cotrace")
        parts = {name: Fingerprint(**part) for name, part in payload["parts"].items()}
        *done, own = (self._tensors(name, part) for name, part in parts.items())
        return RunState.from_data(payload, done, own), parts

    def _tensors(self, name: str, wanted: Fingerprint) -> dict[str, Tensor]:
        if Path(name).name != name:
            raise DamagedRun(f"{name!r} is not a file of the checkpoint")
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise DamagedRun(f"{name}: {error.strerror}") from None
        if Fingerprint.of(content) != wanted:
            raise DamagedRun(f"{name} does not have the hash that it was written with")
        return dict(load(content))

    def remove(self) -> None:
        """Remove all of them: the run is done. The folder stays where something else lies in it. Raises DamagedRun."""
        if self._is_folder:
            sweep(self.folder)
            self._delete(self._own())
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
