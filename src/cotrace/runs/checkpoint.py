"""The checkpoints of a run: numbered, each sealed by its own hash; the one before stays until the new one is there.

Sums over other batches differ in their last digits: where memory ran out, a replay agrees within 1e-5, not in bytes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from typing_extensions import TypedDict

from cotrace.errors import CotraceError, DamagedRun
from cotrace.results import Frontier
from cotrace.results.effects import EffectTable
from cotrace.runs.config import RunConfig
from cotrace.runs.config_file import amend_config, read_run_config
from cotrace.runs.directory import CHECKPOINTS, sweep, write_atomically
from cotrace.runs.manifest import Fingerprint, seal, unseal
from cotrace.runs.result_files import Step
from cotrace.search import SearchState

TABLES = ("effects", "effects_heldout")


class SmallerBatches(TypedDict):
    """The change of the batches when memory ran out."""

    batch_tokens: int
    checkpointing: bool


class BatchPlan(TypedDict):
    """How the passes are cut, and what changed when memory ran out."""

    batch_tokens: int
    checkpointing: str
    events: list[SmallerBatches]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Enough to go on from as if the run had never stopped, and nothing that is code."""

    frontiers: tuple[Frontier, ...] = ()
    """Frontiers of the searches that are done, in order."""
    steps: tuple[Step, ...] = ()
    """The rows of history.csv so far."""
    search: SearchState | None = None
    """Where the search under way stands; None before its first step, and where all are done."""
    elapsed_s: float = 0.0
    """Seconds that the search under way has taken."""
    batch_plan: Mapping[str, Any] | None = None
    """How the passes are cut, and what changed when memory ran out."""

    @property
    def is_new(self) -> bool:
        """Whether nothing was done yet."""
        return not self.steps

    def to_data(self) -> dict[str, Any]:
        """Return the part that JSON holds."""
        return {
            "frontiers": [frontier.to_dict() for frontier in self.frontiers],
            "steps": [list(asdict(step).values()) for step in self.steps],
            "search": None if self.search is None else self.search.to_arrays()[0],
            "elapsed_s": self.elapsed_s,
            "batch_plan": self.batch_plan,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the search under way."""
        return {} if self.search is None else self.search.to_arrays()[1]

    @classmethod
    def from_data(cls, data: Mapping[str, Any], done: list[dict[str, Tensor]], tensors: dict[str, Tensor]) -> RunState:
        """Inverse of ``to_data``, ``frontier_tensors`` of each frontier, and ``tensors``."""
        frontiers = [Frontier.from_dict(own) for own in data["frontiers"]]
        return cls(
            frontiers=tuple(with_tensors(*pair) for pair in zip(frontiers, done, strict=True)),
            steps=tuple(Step(*row) for row in data["steps"]),
            search=None if data["search"] is None else SearchState.from_arrays(data["search"], tensors),
            elapsed_s=float(data["elapsed_s"]),
            batch_plan=TypeAdapter(BatchPlan | None).validate_python(data["batch_plan"]),
        )


def frontier_tensors(frontier: Frontier) -> dict[str, Tensor]:
    """The effects that a frontier keeps, which its JSON leaves out."""
    return {name: torch.from_numpy(array.copy()) for part in TABLES for name, array in _arrays(frontier, part)}


def _arrays(frontier: Frontier, part: str) -> Iterator[tuple[str, Any]]:
    table: EffectTable | None = getattr(frontier, part)
    yield from ({} if table is None else table.to_arrays(part)).items()


def with_tensors(frontier: Frontier, tensors: Mapping[str, Tensor]) -> Frontier:
    """The frontier with the effects that it had."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    tables = {part: EffectTable.from_arrays(len(frontier.space), part, arrays) for part in TABLES}
    return replace(frontier, effects=tables["effects"], effects_heldout=tables["effects_heldout"])


BATCH_PLAN = "batch_plan"
"""Key of the record."""


def going_on(config: RunConfig, plan: Mapping[str, Any] | None) -> RunConfig:
    """The configuration with the batches that an interrupted run came to, unless it asks for others."""
    if plan is None or not plan["events"] or config.batch_tokens not in (None, plan["batch_tokens"]):
        return config
    last = plan["events"][-1]
    checkpointing = "on" if last["checkpointing"] else config.checkpointing
    return replace(config, batch_tokens=last["batch_tokens"], checkpointing=checkpointing)


def extended(plan: Mapping[str, Any] | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a resumed run from its beginning: as it was before, with the changes since."""
    if plan is None:
        return dict(own)
    return dict(own) | dict(plan) | {"events": [*plan["events"], *own["events"]]}


def note(folder: Path, plan: Mapping[str, Any] | None) -> str | None:
    """Put the changes that came on the way into the record of the run; says them, where there were any."""
    if plan is None or not plan["events"]:
        return None
    before = read_run_config(folder)[1][BATCH_PLAN]
    amend_config(folder, {}, {BATCH_PLAN: {**before, **plan}})
    return words(plan)


def words(plan: Mapping[str, Any]) -> str:
    """The change of the batches when memory ran out, in words."""
    last = plan["events"][-1]
    again = ", activations computed again in the backward pass" if last["checkpointing"] else ""
    was, now = plan["batch_tokens"], last["batch_tokens"]
    return (
        f"memory ran out {len(plan['events'])} times: batches of {now} tokens instead of {was}{again}; "
        "a replay agrees within 1e-5"
    )


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
        """Whether the folder is there. Raises DamagedRun for a link, whose target is not this run's."""
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
