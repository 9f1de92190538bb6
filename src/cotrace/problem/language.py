"""LanguageProblem: a model, prompt pairs, donors and a metric, as a Problem that every search can solve."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from cotrace import markup
from cotrace.batches import ALIGNMENTS, Align, Bos, Encoding, Packing, Refusal, encode_task
from cotrace.batches.roles import ALL
from cotrace.components import ComponentSpace, Site
from cotrace.donors import DonorSource, Noise, check_sites, donor_source
from cotrace.errors import InputError, unknown
from cotrace.interventions.storage import Storage
from cotrace.metrics import AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.problem.aim import aim
from cotrace.problem.batching import Batching, Checkpointing
from cotrace.problem.breakdown import Breakdown, breakdown
from cotrace.problem.coverage import Coverage
from cotrace.problem.memory import check_budget, check_memory, memory_budget
from cotrace.problem.packing import choose_packing
from cotrace.problem.pairs import PairProblem
from cotrace.problem.parts import Builder, subset_of
from cotrace.problem.protocol import Cost, Direction, Examples, Loss, Mode, Problem
from cotrace.problem.scorer import Scorer
from cotrace.problem.summary import FullSwap, full_swap, preferred
from cotrace.problem.whole import SetProblem
from cotrace.prompts import Task
from cotrace.prompts.split import groups, split_parts

Positions = Literal["prompt", "prompt+answer"]


class RefusedPairs(UserWarning):
    """Some pairs cannot be used; the problem lists them in ``refused``."""


@dataclass(frozen=True)
class Plan:
    """What a problem will work on, before any search."""

    pairs: int
    heldout_pairs: int
    refused_pairs: int
    components: int
    tokens: int
    """Real tokens of one evaluation of one mask on all training pairs."""
    padded_tokens: int
    """The same with padding."""
    batches: int
    """Forward passes of one such evaluation."""
    packed: bool
    donor_bytes: int
    rows: int = 0
    """Rows of those forward passes together."""
    searched_pairs: int = 0
    """Training pairs that searches see: all, or as many as ``search_pairs`` allows."""
    memory_bytes: int = 0
    """Donor values and kept prefixes in memory."""
    disk_bytes: int = 0
    """Those in mapped files, for which the budget has no room."""
    recomputed_bytes: int = 0
    """Those that are computed for each forward pass anew, for which the disk has no room either."""


class LanguageProblem:
    """Which components of a language model, together, drive a metric? See ``problem.protocol.Problem``.

    ``holdout`` is the share of pairs that no search sees (0 keeps all in), ``audit`` a third share that nothing touches
    until the final figures; pairs with one value of the field ``split_by`` (default ``split_group``) stay together.
    The direction defaults to the sign of the full swap. Donor values and base scores are computed once, here.
    ``pack=False`` gives every answer a row of its own and keeps no prefixes: slower, for checking.
    ``search_pairs`` lets searches see that many training pairs only, drawn by seed; the frontier is of all.
    ``memory`` (``"4GB"``, ``0.5`` of what is free) bounds donor values and kept prefixes: what goes beyond it is on
    disk, or computed anew. ``checkpointing`` (``auto``: when memory runs out) computes activations again in the
    backward pass. ``batch_plan`` repeats another problem's. Raises CotraceError subclasses for bad input.
    """

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        *,
        sites: Sequence[str | Site] | ComponentSpace | None = None,
        donors: str | DonorSource | None = None,
        metric: str | AnyMetric | Callable[..., Any] | None = None,
        mode: Mode = "swap",
        direction: str | None = None,
        holdout: float | int = 0.3,
        audit: float | int = 0,
        split_by: str | None = None,
        seed: int = 0,
        align: Align = "exact",
        roles: Sequence[str] = (ALL,),
        positions: Positions = "prompt",
        prepend_bos: Bos = "auto",
        template_arguments: Mapping[str, Any] | None = None,
        batch_tokens: int | None = None,
        pack: bool = True,
        search_pairs: int | None = None,
        memory: str | float | int | None = None,
        checkpointing: Checkpointing = "auto",
        batch_plan: Mapping[str, Any] | None = None,
    ) -> None:
        _check_options(mode, align, positions, checkpointing, batch_tokens)
        check_memory(memory)
        self.model, self._task, self.mode = model, task, mode
        chosen, wanted = aim(metric_named(metric or task.metric), direction, mode)
        self.space = _space(model, sites if sites is not None else task.sites, roles)
        self.donors = donor_source(donors or task.donors)
        check_sites(self.donors, self.space, align)
        self.encoding = self._encode(align, prepend_bos, template_arguments or {})
        self.refused = _warn_of(self.encoding.refused, len(task))
        packing = replace(
            choose_packing(model, self.encoding.pairs, batch_tokens, pack), patch_answers=positions == "prompt+answer"
        )
        encoding = self._with_prefixes(self.encoding) if packing.keep_prefix else self.encoding
        pairs = [encoded.pair for encoded in encoding.pairs]
        train, held, sealed = split_parts(pairs, holdout, seed, audit=audit, by=split_by)
        labels = groups(pairs, split_by)
        self._groups = dict(zip((pair.id for pair in pairs), labels, strict=True))
        some = subset_of(train, labels, search_pairs, seed)
        self._batching = Batching.planned(packing.batch_tokens, checkpointing, batch_plan)
        self._storage = Storage(memory_budget(memory, model.device))
        builder = Builder(
            model,
            self.space,
            self.donors,
            packing,
            chosen,
            mode,
            self._task.score == "mean",
            self._batching,
            self._storage,
        )
        parts = [[encoding.pairs[i] for i in indices] for indices in (train, held) if indices]
        check_budget(memory, self._storage.budget, max(map(builder.least_memory, parts)))

        def part(name: str, indices: Sequence[int]) -> PairProblem | SetProblem:
            return builder.part(name, [encoding.pairs[i] for i in indices])

        self.training = part("training", train)
        self._held = part("heldout", held) if held else None
        self._sealed = partial(part, "audit", sealed) if sealed else None
        self._some = part("subset", some) if some else None
        if self._some is not None:
            self._some.use_cost(self.training.cost, self._some.size / self.training.size)
        self.full_swap: FullSwap = full_swap(self.training)
        self.direction: Direction = wanted or preferred(self.full_swap, mode)
        if mode == "keep":
            _ = self.training.swing

    def _encode(self, align: Align, bos: Bos, arguments: Mapping[str, Any]) -> Encoding:
        """The pairs as tokens, with the donor prompts and roles that are needed."""
        roles = dict.fromkeys(block.role for block in self.space.blocks)
        wanted = [*roles, *([self.donors.role] if isinstance(self.donors, Noise) else [])]
        encoding = encode_task(
            self._task,
            self.model.require_tokenizer(),
            paired=self.donors.paired,
            align=align,
            roles=wanted,
            prepend_bos=bos,
            template_arguments=arguments,
        )
        return self.donors.prepare(encoding)

    def _with_prefixes(self, encoding: Encoding) -> Encoding:
        pairs = tuple(replace(pair, prefix=self.donors.prefix(pair)) for pair in encoding.pairs)
        return replace(encoding, pairs=pairs)

    @property
    def packing(self) -> Packing:
        """How examples share rows, and how many tokens a forward pass holds now."""
        return self.training.scorer.packing

    @property
    def batch_plan(self) -> dict[str, Any]:
        """How the passes were cut, with every change on the way: given to another problem it repeats them."""
        return self._batching.to_dict() | {"stored": dict(self._storage.used)}

    @property
    def searched(self) -> Problem:
        """What searches see: the problem itself, or the same on ``search_pairs`` of its pairs."""
        return self if self._some is None else Heldout(self, self._some, "subset")

    @property
    def scorers(self) -> tuple[Scorer, Scorer]:
        """What runs the model over the pairs that searches see, and over those that judge."""
        parts = self._some or self.training, self._held or self.training
        return parts[0].scorer, parts[1].scorer

    @property
    def heldout(self) -> Heldout | None:
        """The same problem on unseen pairs; None where nothing is held out."""
        return None if self._held is None else Heldout(self, self._held)

    @cached_property
    def audit(self) -> Heldout | None:
        """The same problem on the pairs that neither search nor choice has seen; built when first asked for."""
        return None if self._sealed is None else Heldout(self, self._sealed(), "audit")

    def groups_of(self, ids: Sequence[str]) -> list[str]:
        """What each of these pairs stays together with in a split: the units that intervals resample."""
        return [self._groups[name] for name in ids]

    @property
    def clusters(self) -> list[str]:
        """The group of each training pair."""
        return self.groups_of(self.training.ids)

    @property
    def weights(self) -> Float[Tensor, "example"]:
        """How much each training pair counts in the aggregate."""
        return self.training.weights

    @property
    def source_task(self) -> Task:
        """The task that the problem was made of."""
        return self._task

    @property
    def metric(self) -> str:
        return self.training.metric.name

    @property
    def task(self) -> str:
        return self._task.name

    @property
    def size(self) -> int:
        return self.training.size

    @property
    def cost(self) -> Cost:
        return self.training.cost

    @property
    def coverage(self) -> Coverage:
        """How many pairs were refused, by group."""
        return Coverage.of(self._task.pairs, self.refused)

    @property
    def summary(self) -> str:
        """The question in words, with the direction and the full swap."""
        aim = {"maximise": "largest", "minimise": "smallest"}[self.direction]
        what = "restored by keeping" if self.mode == "keep" else "moved by swapping"
        coverage = self.coverage
        return f"{coverage.words}{self.full_swap.words}. Looking for the {aim} effect {what} k of {self.space.outline}."

    @property
    def plan(self) -> Plan:
        """Pairs, tokens, components and memory."""
        layouts = self.training.scorer.all_layouts
        parts = [part for part in (self.training, self._held) if part is not None]
        return Plan(
            pairs=self.size,
            heldout_pairs=0 if self._held is None else self._held.size,
            refused_pairs=len(self.refused),
            components=len(self.space),
            tokens=sum(layout.tokens for layout in layouts),
            padded_tokens=sum(layout.cells for layout in layouts),
            batches=len(layouts),
            packed=self.packing.packed,
            donor_bytes=sum(part.scorer.donors.nbytes for part in parts),
            rows=sum(layout.rows for layout in layouts),
            searched_pairs=self.searched.size,
            memory_bytes=self._storage.used["memory"],
            disk_bytes=self._storage.used["disk"],
            recomputed_bytes=self._storage.used["recomputed"],
        )

    def scores(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example answer"]:
        """log p(answer | prompt) of every answer, under one mask or several."""
        return self.training.scores(masks, examples)

    def effects(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one mask [n], several [mask, n], a Selection or component names."""
        return self.training.effects(masks, examples)

    def value(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The reported aggregate on all training pairs."""
        return self.training.value(masks)

    def value_and_effects(self, masks: Any) -> tuple[Float[Tensor, "*mask"], Float[Tensor, "*mask example"] | None]:
        """Both from one evaluation; no effects where the metric has none of each pair."""
        return self.training.value_and_effects(masks)

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact gradient of the mean of ``objective(effects)``, or of the reported aggregate where None."""
        return self.training.gradient(z, objective, examples)

    @property
    def surrogate(self) -> bool:
        """Whether searches see another quantity than ``reported``."""
        return self.training.metric.surrogate

    def reported(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The metric's own level under one mask or several, as people read it: hard where searches see a soft one."""
        return self.training.reported(masks)

    def breakdown(self, masks: Any, by: str = "group", *, heldout: bool = False) -> Breakdown:
        """The effect of one mask, Selection or list of names on each subgroup: ``by`` is a field of the pairs."""
        part = self._held if heldout else self.training
        if part is None:
            raise InputError("nothing is held out, so there is no held-out breakdown: build the problem with holdout")
        return breakdown(part, masks, by)

    def side_values(self, masks: Any) -> Float[Tensor, "*mask side"]:
        """Values that constraints bound; no columns where there are none."""
        return self.training.side_values(masks)

    def _repr_html_(self) -> str:
        facts = {
            "model": self.model.name,
            "task": self.task,
            "metric": self.metric,
            "mode": self.mode,
            "components": f"{len(self.space)}: {self.space.outline}",
            "pairs searched": self.size,
            "pairs held out": 0 if self._held is None else self._held.size,
            "pairs refused": f"{len(self.refused)}; the first: {self.refused[0].reason}" if self.refused else "",
        }
        return markup.facts("Problem", facts) + markup.paragraph(self.summary)

    def __repr__(self) -> str:
        return (
            f"LanguageProblem({self.model.name}, {self.task}, {self.metric}, {self.mode}, {self.space.outline}, "
            f"{self.size} pairs + {0 if self._held is None else self._held.size} held out)"
        )


class Heldout:
    """A problem's unseen pairs, with the problem's own space, mode and direction."""

    heldout = None

    def __init__(self, whole: LanguageProblem, part: PairProblem | SetProblem, name: str = "held out") -> None:
        self._part = part
        self.space, self.mode, self.direction = whole.space, whole.mode, whole.direction
        self.metric, self.task, self.summary = whole.metric, f"{whole.task} ({name})", whole.summary
        self.size, self.cost, self.ids = part.size, part.cost, part.ids
        self.effects, self.value, self.gradient = part.effects, part.value, part.gradient
        self.scores, self.side_values = part.scores, part.side_values
        self.reported, self.surrogate = part.reported, whole.surrogate
        self.value_and_effects = part.value_and_effects
        if isinstance(part, SetProblem):
            self.redrawn = part.redrawn
        self.weights, self.clusters = part.weights, whole.groups_of(part.ids)


def _space(model: LanguageModel, sites: Sequence[str | Site] | ComponentSpace, roles: Sequence[str]) -> ComponentSpace:
    if isinstance(sites, ComponentSpace):
        whole = set(model.space(sites.sites))
        strange = next((component for component in sites if replace(component, role=ALL) not in whole), None)
        if strange is not None:
            raise InputError(f"{model.name} has no {strange}; it has {model.space(sites.sites).outline}")
        return sites
    if isinstance(sites, str):
        sites = [sites]
    return model.space(tuple(Site.named(site) for site in sites), tuple(roles))


def _warn_of(refused: Sequence[Refusal], total: int) -> tuple[Refusal, ...]:
    if refused:
        warnings.warn(
            f"{len(refused)} of {total} pairs refused; the first: {refused[0].reason}", RefusedPairs, stacklevel=3
        )
    return tuple(refused)


def _check_options(mode: str, align: str, positions: str, checkpointing: str, batch_tokens: int | None) -> None:
    for kind, given, options in (
        ("mode", mode, ("swap", "keep")),
        ("alignment", align, ALIGNMENTS),
        ("positions", positions, ("prompt", "prompt+answer")),
        ("checkpointing", checkpointing, ("auto", "on", "off")),
    ):
        if given not in options:
            raise unknown(kind, given, options)
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}: give at least 1")
