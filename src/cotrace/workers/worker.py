"""Replica: one worker's model, and what it keeps of the batches that it has run."""

from __future__ import annotations

import os
import platform
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from cotrace import __version__
from cotrace.batches import EncodedPair
from cotrace.dictionaries import Dictionary
from cotrace.dictionaries.placed import placed
from cotrace.donors import Donors, RecordedDonors, Setting
from cotrace.errors import ModelError, WorkersError
from cotrace.interventions import PrefixCache, keep_prefixes
from cotrace.models import LanguageModel, load_model
from cotrace.models.language_model import fingerprints
from cotrace.problem.batching import Batching, Event, Slots
from cotrace.problem.losses import BatchLoss, Measure
from cotrace.problem.passes import memory_budget
from cotrace.problem.scorer import Scorer
from cotrace.workers.shares import Batch, Picks, Question, Runs, Sent, joined_donors

ALIKE = ("cotrace", "torch", "transformers")
"""Packages that must have one version everywhere, or bytes may differ."""
MODELS = 2
"""Replicas that a worker holds: a campaign goes through many models, a sum of problems has two."""
SENT_MASKS = 4
"""Tables of masks that a worker holds: one, while another follows it."""


def versions() -> dict[str, str]:
    """Return the versions of the packages that compute here."""
    return {name: __version__ if name == "cotrace" else version(name) for name in ALIKE}


def check_versions(facts: Mapping[str, Any], own: Mapping[str, str] | None = None) -> None:
    """Raise WorkersError where a worker's cotrace, torch or transformers are not the driver's, which are this one's."""
    own = versions() if own is None else own
    for name in ALIKE:
        if facts["versions"].get(name) != own[name]:
            raise WorkersError(
                f"the worker on {facts['node']} has {name} {facts['versions'].get(name)} and the driver {own[name]}: "
                f"install {name}=={own[name]} on every machine"
            )


@dataclass(frozen=True, eq=False)
class ModelSource:
    """How a worker comes to its replica: by loading files as the driver did, or from the weights themselves."""

    name: str
    arguments: Mapping[str, Any] | None
    """Arguments of ``load_model``; None where the model was made in memory."""
    model: LanguageModel | None
    fingerprints: Mapping[str, str]

    @classmethod
    def of(cls, model: LanguageModel) -> ModelSource:
        """Build the source of a model that is here. Tokens are made by the driver, so the tokenizer stays."""
        held = None if model.loaded else replace(model, tokenizer=None, dictionaries=())
        return cls(model.name, model.loaded, held, fingerprints(model))

    def placed(self, gpus: float) -> dict[str, Any]:
        """The arguments for a worker with so many GPUs: one takes the model whole, several by ``device_map``."""
        arguments = dict(self.arguments or {})
        if gpus > 1:
            return arguments | {"device": "cpu", "device_map": arguments.get("device_map") or "auto"}
        return arguments | {"device": "cuda", "device_map": None} if gpus else arguments

    def made(self, gpus: float) -> LanguageModel:
        """The replica. Raises ModelError, where it is not the driver's model too."""
        if self.model is None:
            model = self._loaded(gpus)
        else:
            model = self.model
            if gpus:
                model.module.to("cuda")
        own = fingerprints(model)
        other = next((name for name in own if self.fingerprints.get(name, own[name]) != own[name]), None)
        if other is not None:
            raise ModelError(
                f"worker on {platform.node()}: its {self.name} has other weights {other} than the driver's: give all "
                "machines the same model files"
            )
        return model

    def _loaded(self, gpus: float) -> LanguageModel:
        try:
            return load_model(**self.placed(gpus))
        except ModelError as error:
            raise ModelError(
                f"worker on {platform.node()}: {error}; the model's files must lie where every worker can read them"
            ) from None


@dataclass(frozen=True, eq=False)
class Holding:
    """A known model with dictionaries, and the features of each that are components."""

    plain: Sent
    dictionaries: tuple[tuple[Dictionary, Tensor | None], ...]

    @classmethod
    def of(cls, model: LanguageModel, plain: Sent) -> Holding:
        """Describe the dictionaries of a model that is here; whose they are has been checked, so the name stays."""
        here = torch.device("cpu")
        held = [
            (replace(p.dictionary.to(here, model.compute_dtype), model_name=""), p.active) for p in model.dictionaries
        ]
        return cls(plain, tuple((one, None if some is None else some.cpu()) for one, some in held))

    def made(self, plain: LanguageModel) -> LanguageModel:
        """The same of a replica."""
        held = placed(plain, [one for one, _ in self.dictionaries])
        active = [None if some is None else some.to(plain.device) for _, some in self.dictionaries]
        return plain.holding(tuple(replace(one, active=some) for one, some in zip(held, active, strict=True)))


class Kept:
    """Cache in order of use; the oldest entries go once more bytes are held than allowed."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self.nbytes = 0

    def get(self, key: str, budget: int, make: Callable[[], tuple[Any, int]]) -> Any:
        """Return the entry of that key, made now unless it is held; it stays, however large."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key][0]
        value, size = make()
        self._held[key] = value, size
        self.nbytes += size
        while self.nbytes > budget and len(self._held) > 1:
            self.nbytes -= self._held.popitem(last=False)[1][1]
        return value


class Replica:
    """Runs batches on its own replica of a model. Donor values and prefixes are made here, and stay."""

    def __init__(
        self, threads: int, gpus: float = 0, neighbours: int = 1, fetch: Callable[[Any], Any] | None = None
    ) -> None:
        torch.set_num_threads(threads)
        self._gpus, self._neighbours, self._fetch = gpus, neighbours, fetch or _from_store
        self._models: dict[str, LanguageModel] = {}
        self._holding: dict[str, LanguageModel] = {}
        """Models with dictionaries in them."""
        self._questions: dict[str, Question] = {}
        self._sent, self._made = Kept(), Kept()
        self._budgets: dict[str, int] = {}

    def begin(self) -> dict[str, Any]:
        """Return the facts that the driver asks for first."""
        return {"versions": versions(), "node": platform.node(), "pid": os.getpid()}

    def scores(
        self,
        question: Sent,
        batch: Sent,
        now: Event,
        masks: Tensor | Sent,
        passes: Sequence[int] | None,
        measure: Measure | None,
    ) -> tuple[Tensor, Tensor, list[Event]]:
        """Return the masks, their scores (or measures) of the batch's examples, and any halving.

        ``now`` is how the driver cuts passes at present: those that it asks for are counted by that.
        """
        scorer, local = self._scorer(question, batch, now)
        z = self._got(masks) if isinstance(masks, Sent) else masks
        return (*scorer.batch_scores(z, local.layout, passes, measure), scorer.batching.events)

    def slope(
        self, question: Sent, batch: Sent, now: Event, z: Tensor | Sent, loss: BatchLoss
    ) -> tuple[Tensor, list[Event]]:
        """The gradient of the batch's loss."""
        scorer, local = self._scorer(question, batch, now)
        point = self._got(z) if isinstance(z, Sent) else z
        return scorer.batch_slope(point, loss, local.layout), scorer.batching.events

    def _got(self, sent: Sent) -> Any:
        """Return an object of the store, fetched once."""
        return self._sent.get(sent.key, SENT_MASKS, lambda: (self._fetch(sent.ref), 1))

    def _question(self, sent: Sent) -> Question:
        if sent.key not in self._questions:
            self._questions[sent.key] = self._fetch(sent.ref)
        return self._questions[sent.key]

    def _model(self, sent: Sent) -> LanguageModel:
        if sent.key in self._holding:
            return self._holding[sent.key]
        if sent.key not in self._models:
            source = self._fetch(sent.ref)
            if isinstance(source, Holding):
                self._holding[sent.key] = source.made(self._model(source.plain))
                return self._holding[sent.key]
            if len(self._models) >= MODELS:  # what was made of it goes with the oldest
                self._models.pop(next(iter(self._models)))
                self._holding, self._made, self._budgets = {}, Kept(), {}
            self._models[sent.key] = source.made(self._gpus)
        return self._models[sent.key]

    def _scorer(self, question: Sent, batch: Sent, now: Event) -> tuple[Scorer, Batch]:
        asked = self._question(question)
        model = self._model(asked.model)
        if question.key not in self._budgets:
            share = 1 if asked.memory is not None else self._neighbours
            self._budgets[question.key] = memory_budget(asked.memory, model.device) // share
        budget = self._budgets[question.key]
        found: tuple[Scorer, Batch] = self._made.get(
            batch.key, budget, lambda: self._built(asked, model, self._fetch(batch.ref), budget)
        )
        found[0].batching = Batching(now.batch_tokens, asked.checkpointing)
        found[0].batching.checkpointing = now.checkpointing
        return found

    def _built(
        self, question: Question, model: LanguageModel, batch: Batch, budget: int
    ) -> tuple[tuple[Scorer, Batch], int]:
        spots = Slots.of(model, question.space).spots
        places = tuple(dict.fromkeys(place for place, _ in spots))
        setting = Setting(model, question.space, places, question.packing)
        donors = self._donors(question, setting, batch, budget)
        prefix = self._prefixes(setting, batch, budget)
        scorer = Scorer(
            model,
            batch.pairs,
            question.space,
            donors,
            question.packing,
            mean=question.mean,
            reads=question.reads,
            prefix=prefix,
            columns=question.columns,
        )
        return (scorer, batch), donors.nbytes + (0 if prefix is None else prefix.nbytes)

    def _donors(self, question: Question, setting: Setting, batch: Batch, budget: int) -> Donors:
        if question.shared is not None:
            return question.shared.at(setting.places, setting.model)
        if batch.given is not None:
            return batch.given.at(setting.places, setting.model)
        source = question.source
        assert source is not None, "donor values are recorded or shared"

        def recorded(sent: Sent) -> RecordedDonors:
            runs: Runs = self._fetch(sent.ref)
            found = source.donors(replace(setting, layouts=[runs.layout]), runs.pairs)
            assert isinstance(found, RecordedDonors), "that is what recording gives"
            return found

        several, picks = batch.donors
        tables: list[RecordedDonors] = [self._run(sent, budget, recorded) for sent in several]
        return joined_donors(tables, picks, batch.pairs, setting.places, answers=setting.packing.patch_answers)

    def _run(self, sent: Sent, budget: int, make: Callable[[Sent], Any]) -> Any:
        def made() -> tuple[Any, int]:
            found = make(sent)
            return found, found.nbytes

        return self._made.get(sent.key, budget, made)

    def _prefixes(self, setting: Setting, batch: Batch, budget: int) -> PrefixCache | None:
        several, picks = batch.prefixes
        if not several:
            return None

        def kept(sent: Sent) -> PrefixRuns:
            runs: Runs = self._fetch(sent.ref)
            found = keep_prefixes(setting.model, runs.pairs, setting.packing, layouts=[runs.layout])
            assert found is not None, "these runs are of prefixes"
            return PrefixRuns(found, runs.pairs)

        tables = [self._run(sent, budget, kept) for sent in several]
        return joined_prefixes(tables, picks)


def _from_store(ref: Any) -> Any:
    import ray

    return ray.get(ref)


@dataclass(frozen=True, eq=False)
class PrefixRuns:
    """Prefixes of one batch of runs, with their pairs."""

    cache: PrefixCache
    pairs: Sequence[EncodedPair]

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes


def joined_prefixes(tables: Sequence[PrefixRuns], picks: Picks) -> PrefixCache:
    """The keys and values of some pairs' prefixes out of the batches in which they were computed."""
    starts = [[sum(pair.prefix for pair in run.pairs[:i]) for i in range(len(run.pairs) + 1)] for run in tables]
    spans = [(b, slice(starts[b][i], starts[b][i + 1])) for b, i in picks]
    first = tables[0].cache

    def joined(name: str, layer: int) -> Tensor:
        return torch.cat([getattr(tables[b].cache, name)[layer][span] for b, span in spans])

    layers = range(len(first.keys))
    keys, values = ([joined(name, layer) for layer in layers] for name in ("keys", "values"))
    return PrefixCache(keys, values, first.devices)
