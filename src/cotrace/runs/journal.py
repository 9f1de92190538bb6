"""Journal: the results of an evaluation's batches, kept on disk as they come, so that it goes on where it stood.

An evaluation asks a problem the same things in the same order each time, so what was answered before is answered from
here. What is kept is known by the batch, the masks and the question, not by when it was asked.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cotrace.batches import Layout
from cotrace.problem.goals import language_problems
from cotrace.problem.language import LanguageProblem
from cotrace.problem.losses import BatchLoss, ChangeLoss, LevelLoss, Linear, Measure, ScoreLoss
from cotrace.problem.protocol import Problem
from cotrace.problem.scored import PairProblem, Reading
from cotrace.problem.scorer import Executor, Scorer
from cotrace.problem.set_metric import SetProblem
from cotrace.runs.directory import CHECKPOINTS, write_atomically

FOLDER = "evaluation"
EVERY_S = 10.0
"""Seconds between writes, at least."""
LARGEST_BYTES = 1 << 26
"""Largest table that is kept; a larger one, such as logits, is computed again."""
DIGITS = 32


class Journal:
    """Executor that runs batches by another one and keeps their results; kept batches are not run again."""

    def __init__(self, run: Path, inner: Executor, every_s: float = EVERY_S) -> None:
        self.folder, self.inner = run / CHECKPOINTS / FOLDER, inner
        self._every_s, self._written = every_s, time.monotonic()
        self._known: dict[str, Tensor] = dict(_stored(self.folder))
        self._new: dict[str, Tensor] = {}
        self._marks: weakref.WeakKeyDictionary[Scorer, bytes] = weakref.WeakKeyDictionary()
        self.found = len(self._known)
        """Results that were there at the beginning."""

    @property
    def elsewhere(self) -> bool:
        """Whether batches run elsewhere, as the inner executor says."""
        return self.inner.elsewhere

    def scores(
        self, scorer: Scorer, masks: Float[Tensor, "mask n"], layouts: Sequence[Layout], measure: Measure | None = None
    ) -> Iterator[tuple[Layout, Float[Tensor, "mask example ..."]]]:
        """Yield known scores, then the others as they come; of a measure that has no name, none is kept."""
        mark = _measure_mark(measure)
        if mark is None:
            yield from self.inner.scores(scorer, masks, layouts, measure)
            return
        asked = self._mark(scorer) + b"scores" + _tensor_mark(masks) + mark
        keys = {layout: _key(asked, layout) for layout in layouts}
        unknown = []
        for layout in layouts:
            if keys[layout] in self._known:
                yield layout, self._known[keys[layout]]
            else:
                unknown.append(layout)
        for layout, found in self.inner.scores(scorer, masks, unknown, measure) if unknown else ():
            self._keep(keys[layout], found)
            yield layout, found

    def slopes(
        self, scorer: Scorer, z: Float[Tensor, "n"], loss: BatchLoss, layouts: Sequence[Layout]
    ) -> Iterator[Float[Tensor, "n"]]:
        """Yield gradients in plan order; of a loss with an objective of its own, which has no name, none is kept."""
        mark = _loss_mark(loss)
        if mark is None:
            yield from self.inner.slopes(scorer, z, loss, layouts)
            return
        asked = self._mark(scorer) + b"slopes" + _tensor_mark(z) + mark
        keys = [_key(asked, layout) for layout in layouts]
        unknown = [layout for layout, key in zip(layouts, keys, strict=True) if key not in self._known]
        fresh = self.inner.slopes(scorer, z, loss, unknown) if unknown else iter(())
        for key in keys:
            if key in self._known:
                yield self._known[key]
            else:
                found = next(fresh)
                self._keep(key, found)
                yield found

    def _mark(self, scorer: Scorer) -> bytes:
        if scorer not in self._marks:
            self._marks[scorer] = scorer_mark(scorer)
        return self._marks[scorer]

    def _keep(self, key: str, found: Tensor) -> None:
        if found.numel() * found.element_size() <= LARGEST_BYTES:
            self._new[key] = found.detach().clone().contiguous()
        if time.monotonic() - self._written >= self._every_s:
            self.write()

    def write(self) -> None:
        """Put on disk what is new. Raises OSError."""
        if self._new:
            self.folder.mkdir(parents=True, exist_ok=True)
            content = save(self._new)
            write_atomically(self.folder / f"{_digest(content)}.safetensors", content)
            self._new = {}
        self._written = time.monotonic()


@contextmanager
def journaling(problem: Problem, run: Path, every_s: float | None = None) -> Iterator[Journal]:
    """The batches of a problem, or of all that a sum or constraint has, are kept in the run's folder.

    What stopped the evaluation finds on disk all that was computed.
    """
    scorers = list(dict.fromkeys(scorer for one in language_problems(problem) for scorer in scorers_of(one)))
    before = scorers[0].executor
    journal = Journal(run, before, EVERY_S if every_s is None else every_s)
    for scorer in scorers:
        scorer.executor = journal
    try:
        yield journal
    except BaseException as reason:
        _written(journal, reason)
        raise
    finally:
        for scorer in scorers:
            scorer.executor = before
    journal.write()


def _written(journal: Journal, reason: BaseException) -> None:
    try:
        journal.write()
    except (OSError, MemoryError) as error:
        reason.add_note(f"what was evaluated last could not be saved ({error})")


def forget(run: Path) -> None:
    """Remove the journal: the evaluation is stored."""
    folder = run / CHECKPOINTS / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def scorers_of(problem: LanguageProblem) -> Iterator[Scorer]:
    """Return the scorers of all parts that are built, and of all draws of their donors."""
    for part in problem.built:
        yield from _of_part(part)


def _of_part(part: PairProblem | SetProblem) -> Iterator[Scorer]:
    yield part.scorer
    for draw in part.draws:
        yield from _of_part(draw)


def scorer_mark(scorer: Scorer) -> bytes:
    """Hash of all that scores depend on beside the model, which is the run's: tokens, donors, components, packing."""
    told = hashlib.sha256()
    for pair in scorer.pairs:
        told.update(repr((pair.prompt, pair.answers, pair.donor, pair.donor_positions, pair.prefix)).encode())
        told.update(repr(sorted(pair.roles.items())).encode())
    for part in (scorer.space.names, scorer.packing, scorer.mean, scorer.reads):
        told.update(repr(part).encode())
    _tell(told, scorer.source)
    return told.digest()


def _tell(told: Any, value: Any) -> None:
    """Add a donor source, or its content, to a hash."""
    if isinstance(value, Tensor):
        told.update(_tensor_mark(value))
    elif is_dataclass(value):
        told.update(type(value).__name__.encode())
        for field in fields(value):
            _tell(told, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for name in value:
            told.update(str(name).encode())
            _tell(told, value[name])
    elif isinstance(value, (list, tuple)) and not all(isinstance(one, (int, str)) for one in value):
        for one in value:
            _tell(told, one)
    else:
        told.update(repr(value).encode())


def _tensor_mark(tensor: Tensor) -> bytes:
    raw = tensor.detach().cpu().contiguous()
    return hashlib.sha256(
        repr((raw.dtype, raw.shape)).encode() + raw.reshape(-1).view(torch.uint8).numpy().tobytes()
    ).digest()


def _measure_mark(measure: Measure | None) -> bytes | None:
    """Return the key of a measure beside its scorer and base run; None where nothing names it."""
    if measure is None:
        return b""
    return f"{measure.what} of {measure.metric.name}".encode() if isinstance(measure, Reading) else None


def _loss_mark(loss: BatchLoss) -> bytes | None:
    """Hash of a loss that is known by its numbers; None for others."""
    if isinstance(loss, ScoreLoss):
        return b"scores" + _tensor_mark(loss.slope)
    if isinstance(loss, LevelLoss):
        return loss.metric.name.encode() + b"levels" + _tensor_mark(loss.base) + _tensor_mark(loss.slope)
    if not isinstance(loss, ChangeLoss):
        return None
    base = loss.metric.name.encode() + _tensor_mark(loss.base)
    inner = loss.of_changes
    if isinstance(inner, Linear):
        return base + b"linear" + _tensor_mark(inner.slope)
    if inner.objective is not None:
        return None
    parts = (inner.weight, inner.total, inner.full, inner.swing)
    return base + b"".join(b"-" if part is None else _tensor_mark(part) for part in parts)


def _key(asked: bytes, layout: Layout) -> str:
    told = hashlib.sha256(asked)
    for one in layout.passes:
        told.update(repr((one.examples, tuple(one.input_ids.shape))).encode())
    return told.hexdigest()[:DIGITS]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Return the content of the folder's files; one that has changed since is left out with a warning."""
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        content = path.read_bytes()
        try:
            if _digest(content) != path.stem:
                raise ValueError("its hash differs")
            yield from load(content).items()
        except (ValueError, SafetensorError) as error:
            warnings.warn(f"{path} is not what was written ({error}): what it held is evaluated again", stacklevel=2)
