"""Workers: Ray actors that run batches. Handed out as they become free, done again where one is lost."""

from __future__ import annotations

import itertools
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import Layout
from cotrace.errors import WorkersError
from cotrace.models import LanguageModel
from cotrace.problem.batching import Event
from cotrace.problem.builder import recorded_elsewhere
from cotrace.problem.losses import BatchLoss, Measure
from cotrace.problem.scorer import Scorer
from cotrace.validation import guarded
from cotrace.workers.cluster import (
    MAX_RESTARTS,
    START_S,
    Cluster,
    Needs,
    cause_of,
    check_asked,
    first_ready,
    full_store,
    join,
    ray_module,
    too_many_lost,
)
from cotrace.workers.shares import Cut, Question, Sent, Shared, check_sendable, is_shared
from cotrace.workers.worker import Holding, ModelSource, Replica, check_versions

SLICES = 4
"""Parts for each worker that masks over few batches are cut into, so that none waits long for the last."""
AHEAD = 2
"""Batches that a worker has been given at most, so that the next is there when one is done."""
SMALL_BYTES = 1 << 16
"""Larger tensors go through the object store, once for all batches."""


@dataclass(eq=False)
class Unit:
    """One batch, or some forward passes of it, to be run by some worker."""

    number: int
    method: str
    batch: Sent
    arguments: tuple[Any, ...]


@dataclass(eq=False)
class _Worker:
    number: int
    actor: Any
    group: Any = None
    """Its placement group, where it has several GPUs."""
    flying: int = 0
    began: float = field(default_factory=time.monotonic)


class _Queue:
    """Work that is left: each worker takes first what it has run before, then what is new, then of another's."""

    def __init__(self, units: Sequence[Unit], home: Mapping[str, int]) -> None:
        self._of: dict[int | None, deque[Unit]] = {}
        for unit in units:
            self.put(unit, home.get(unit.batch.key))

    def put(self, unit: Unit, worker: int | None) -> None:
        self._of.setdefault(worker, deque()).append(unit)

    def take(self, worker: int) -> Unit:
        for own in (worker, None):
            if self._of.get(own):
                return self._of[own].popleft()
        return max(self._of.values(), key=len).pop()

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))


@guarded("ct.Workers", fields=False)
class Workers:
    """Workers on Ray, which many problems may share: ``with ct.Workers(4) as workers: ct.distributed(p, workers)``.

    ``count`` workers run on the cluster at ``ray_address`` (``HOST:PORT`` or ``auto``; None: the one that this process
    has joined, else one that is begun on this machine and ends with the workers). Each has ``gpus`` GPUs: 0.25 puts
    four on one, 2 spreads a model over two by ``device_map``. A worker that is lost is begun again and its batches are
    done elsewhere, ``max_restarts`` times in all. Each computes with as many threads as this process.
    Raises InputError, WorkersError.
    """

    elsewhere = True

    def __init__(
        self,
        count: int,
        *,
        ray_address: str | None = None,
        gpus: float | int = 0,
        max_restarts: int = MAX_RESTARTS,
    ) -> None:
        check_asked(count, gpus, max_restarts)
        self.count, self.gpus, self.max_restarts = count, float(gpus), max_restarts
        self._threads = torch.get_num_threads()
        self.cluster: Cluster = join(ray_address, self._needs)
        self.restarts, self.batches = 0, 0
        self._busy_s = 0.0
        self._workers: dict[int, _Worker] = {}
        self._starting: dict[Any, _Worker] = {}
        self._numbers, self._keys = itertools.count(), itertools.count()
        self._home: dict[str, int] = {}
        self._models: weakref.WeakKeyDictionary[Any, Sent] = weakref.WeakKeyDictionary()
        self._questions: weakref.WeakKeyDictionary[Scorer, tuple[Sent, Cut]] = weakref.WeakKeyDictionary()
        self._held: list[_Worker] = []
        self._close = weakref.finalize(self, _end, self._held, self.cluster.begun)

    @property
    def _needs(self) -> Needs:
        return Needs(self.count, 1 if self.gpus else self._threads, self.gpus)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and Ray where it was begun for them."""
        self._close()

    @property
    def words(self) -> str:
        """Return the state of the workers: workers that run, batches a second, and how many were lost."""
        rate = self.batches / self._busy_s if self._busy_s else 0.0
        lost = f", {self.restarts} lost and begun again" if self.restarts else ""
        return f"{len(self._workers)} of {self.count} workers, {rate:.3g} batches/s{lost}"

    @property
    def record(self) -> dict[str, Any]:
        """Record of the workers for a run."""
        own = {"count": self.count, "gpus": self.gpus, "threads": self._threads, "max_restarts": self.max_restarts}
        return own | {"nodes": self.cluster.nodes, "ray": ray_module().__version__}

    def scores(
        self, scorer: Scorer, masks: Float[Tensor, "mask n"], layouts: Sequence[Layout], measure: Measure | None = None
    ) -> Iterator[tuple[Layout, Float[Tensor, "mask example ..."]]]:
        """The scores of each layout's examples under all masks, or what is measured of them, as they come.

        Args:
            scorer: The pairs, the model and their donors.
            masks: Masks [mask, n].
            layouts: Batches of the plan.
            measure: Function of the scores that is evaluated on the worker; None for the scores themselves.
        """
        question, cut = self._asked(scorer)
        now = Event(scorer.batching.tokens, scorer.batching.checkpointing)
        given = self._given(masks)
        units: list[Unit] = []
        layout_of, left = list[int](), list[int]()
        for i, layout in enumerate(layouts):
            several = self._slices(scorer, masks, layout, len(layouts))
            left.append(len(several))
            own = None if measure is None else measure.among(layout.examples)
            for passes in several:
                units.append(Unit(len(units), "scores", cut.batch(layout), (question, now, given, passes, own)))
                layout_of.append(i)
        tables: dict[int, Tensor] = {}
        for unit, (which, found, events) in self._run(units):
            scorer.batching.follow(events)
            i = layout_of[unit.number]
            table = tables.setdefault(i, found.new_zeros(len(masks), *found.shape[1:]))
            table[which] = found
            left[i] -= 1
            if not left[i]:
                yield layouts[i], tables.pop(i)

    def _slices(self, scorer: Scorer, masks: Tensor, layout: Layout, layouts: int) -> list[Sequence[int] | None]:
        """The forward passes of a layout in as many parts as keep all workers busy; one of all where batches do."""
        wanted = math.ceil(SLICES * self.count / layouts)
        if wanted == 1 or len(masks) == 1:
            return [None]
        passes = len(scorer.passes_of(masks, layout).each)
        return [range(i, passes, min(wanted, passes)) for i in range(min(wanted, passes))]

    def slopes(
        self, scorer: Scorer, z: Float[Tensor, "n"], loss: BatchLoss, layouts: Sequence[Layout]
    ) -> Iterator[Float[Tensor, "n"]]:
        """The gradient of each layout's loss, in the order of the plan.

        Args:
            scorer: The pairs, the model and their donors.
            z: Soft mask [n].
            loss: Function of a batch's scores that is differentiated.
            layouts: Batches of the plan.
        """
        question, cut = self._asked(scorer)
        now = Event(scorer.batching.tokens, scorer.batching.checkpointing)
        given = self._given(z)
        units = [
            Unit(i, "slope", cut.batch(layout), (question, now, given, loss.among(layout.examples)))
            for i, layout in enumerate(layouts)
        ]
        early: dict[int, Tensor] = {}
        following = 0
        for unit, (slope, events) in self._run(units):
            scorer.batching.follow(events)
            early[unit.number] = slope
            while following in early:
                yield early.pop(following)
                following += 1

    def _given(self, tensor: Tensor) -> Tensor | Sent:
        """A tensor for many batches: itself where it is small, else put in the store once."""
        tensor = tensor.detach()
        return self._put(tensor) if tensor.numel() * tensor.element_size() > SMALL_BYTES else tensor

    def _put(self, value: Any) -> Sent:
        """Into the object store. Raises WorkersError where it is full."""
        ray = ray_module()
        with full_store(ray):
            return Sent(str(next(self._keys)), ray.put(value))

    def _asked(self, scorer: Scorer) -> tuple[Sent, Cut]:
        """Return the data that a scorer's batches share, sent once, and how its plan is cut."""
        if scorer not in self._questions:
            check_sendable(scorer)
            packing, source, donors = scorer.packing, scorer.source, scorer.donors
            recorded = recorded_elsewhere(source, scorer.space)
            question = Question(
                model=self._model(scorer.model),
                space=scorer.space,
                source=source if recorded else None,
                shared=Shared.of(donors) if not recorded and is_shared(donors) else None,
                packing=packing,
                mean=scorer.mean,
                reads=scorer.reads,
                columns=scorer.columns,
                checkpointing=scorer.batching.option,
                memory=scorer.memory,
            )
            self._questions[scorer] = self._put(question), Cut(scorer, packing, self._put)
        return self._questions[scorer]

    def _model(self, model: LanguageModel) -> Sent:
        plain = self._once(model.module, lambda: ModelSource.of(model))
        return self._once(model, lambda: Holding.of(model, plain)) if model.dictionaries else plain

    def _once(self, known: Any, make: Callable[[], Any]) -> Sent:
        """Data of something that lives here, sent once in its life."""
        if known not in self._models:
            self._models[known] = self._put(make())
        return self._models[known]

    def _run(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Any]]:
        """The results of these, in the order in which they come. Raises what a batch raises; WorkersError."""
        ray, queue, flying = ray_module(), _Queue(units, self._home), dict[Any, tuple[_Worker, Unit]]()
        self._check_open()
        self._fill_up()
        began = time.monotonic()
        try:
            while len(queue) or flying:
                self._hand_out(queue, flying)
                ready = first_ready(ray, [*flying, *self._starting])
                if not ready and not flying:
                    raise self._none_began(ray)
                for ref in ready:
                    if ref in self._starting:
                        self._welcome(ray, ref)
                    elif (found := self._landed(ray, ref, flying, queue)) is not None:
                        yield found
        finally:
            self._busy_s += time.monotonic() - began
            for worker, _ in flying.values():
                worker.flying = 0

    def _hand_out(self, queue: _Queue, flying: dict[Any, tuple[_Worker, Unit]]) -> None:
        """Hand a batch to each free worker, as long as there is one: to the worker with the least to do first."""
        while len(queue):
            free = [worker for worker in self._workers.values() if worker.flying < AHEAD]
            if not free:
                return
            worker = min(free, key=lambda one: one.flying)
            if worker.flying and len(queue) < len(self._workers):  # the last few are for who is idle first
                return
            unit = queue.take(worker.number)
            question, *rest = unit.arguments
            ref = getattr(worker.actor, unit.method).remote(question, unit.batch, *rest)
            flying[ref] = worker, unit
            worker.flying += 1

    def _landed(
        self, ray: Any, ref: Any, flying: dict[Any, tuple[_Worker, Unit]], queue: _Queue
    ) -> tuple[Unit, Any] | None:
        """The result of a batch; None where its worker was lost, and all that it had is to be done again."""
        worker, unit = flying.pop(ref)
        try:
            with full_store(ray):
                found = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise cause_of(error) from None
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.RayError) as error:
            again = [unit, *(own for other, (who, own) in list(flying.items()) if who is worker and flying.pop(other))]
            self._lost(ray, worker, error)
            for own in again:
                queue.put(own, None)
            return None
        worker.flying -= 1
        self.batches += 1
        self._home[unit.batch.key] = worker.number
        return unit, found

    def _lost(self, ray: Any, worker: _Worker, error: BaseException) -> None:
        """Begin another in its place, as long as that is allowed. Raises WorkersError."""
        self._workers.pop(worker.number, None)
        self._home = {key: home for key, home in self._home.items() if home != worker.number}
        _end_worker(ray, worker)
        self._held.remove(worker)
        self.restarts += 1
        if self.restarts > self.max_restarts:
            raise too_many_lost(self.restarts, self.max_restarts, error, "go on with `cotrace resume`")
        self._start(ray)

    @property
    def is_open(self) -> bool:
        """Whether they can be given batches."""
        return bool(self._close.alive)

    def _check_open(self) -> None:
        if not self.is_open:
            raise WorkersError("these workers have ended: make new ones with ct.Workers(...) and the problem anew")

    def _fill_up(self) -> None:
        ray = ray_module()
        while len(self._workers) + len(self._starting) < self.count:
            self._start(ray)

    def _start(self, ray: Any) -> None:
        """Ask for one more worker; it is one of them when it has answered."""
        number, needs, group = next(self._numbers), self._needs, None
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_restarts": 0}
        if needs.gpus > 1:
            group = ray.util.placement_group([{"CPU": needs.cpus, "GPU": needs.gpus}], strategy="STRICT_PACK")
            strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
            options["scheduling_strategy"] = strategy
        neighbours = math.ceil(self.count / max(1, self.cluster.nodes))
        actor = ray.remote(Replica).options(**options).remote(self._threads, self.gpus, neighbours)
        worker = _Worker(number, actor, group)
        self._held.append(worker)
        self._starting[actor.begin.remote()] = worker

    def _welcome(self, ray: Any, ref: Any) -> None:
        """A worker has answered. Raises WorkersError where it computes with other versions."""
        worker = self._starting.pop(ref)
        try:
            facts = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise cause_of(error) from None
        except ray.exceptions.RayError as error:
            self._lost(ray, worker, error)
            return
        check_versions(facts)
        self._workers[worker.number] = worker

    def _none_began(self, ray: Any) -> WorkersError:
        free = ", ".join(f"{ray.available_resources().get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        return WorkersError(
            f"no worker has begun within {START_S:.0f} s: free are {free}, and each needs {self._needs.cpus} CPUs and "
            f"{self._needs.gpus:g} GPUs; wait for other jobs, ask for less, or go on later with `cotrace resume`"
        )


def _end_worker(ray: Any, worker: _Worker) -> None:
    """Kill the worker, if it lives, and free its resources."""
    ray.kill(worker.actor)
    if worker.group is not None:
        ray.util.remove_placement_group(worker.group)


def _end(held: list[_Worker], begun: bool) -> None:
    ray = ray_module()
    if not ray.is_initialized():
        return
    for worker in held:
        _end_worker(ray, worker)
    held.clear()
    if begun:
        ray.shutdown()
