"""Inside: what a LanguageProblem is built of, for who judges, stores and draws it; users need none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cotrace.batches import EncodedPair, Encoding, Packing, Refusal
from cotrace.components import ComponentSpace, Mode
from cotrace.donors import DonorSource
from cotrace.errors import InputError
from cotrace.interventions.storage import Storage
from cotrace.models import LanguageModel
from cotrace.problem._coverage import Coverage
from cotrace.problem.builder import Builder, Division, Settled, judging
from cotrace.problem.full_swap import FullSwap, full_swap
from cotrace.problem.passes import Batching, check_budget, memory_budget
from cotrace.problem.protocol import Direction, Examples, JudgePairs
from cotrace.problem.scored import PairProblem, input_gradient
from cotrace.problem.set_metric import SetProblem, target_of
from cotrace.problem.spaces import Told
from cotrace.prompts import Task
from cotrace.validation import guarded

Part = PairProblem | SetProblem
Whole = Any
"""A ``Problem``. To ask whether it is one would ask for its direction, which pairs need not show."""


@dataclass(frozen=True)
class Plan:
    """The work of a problem before any search: pairs, tokens, rows and passes."""

    pairs: int
    heldout_pairs: int
    """Pairs that no search sees, whether or not they judge."""
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
    judged_pairs: int = 0
    """Held-out pairs that judge: at most as many as ``judge_pairs`` allows."""
    memory_bytes: int = 0
    """Donor values and kept prefixes in memory."""
    disk_bytes: int = 0
    """Bytes in mapped files, for which the budget has no room."""
    recomputed_bytes: int = 0
    """Bytes that are computed for each forward pass anew, as the disk has no room either."""


@guarded("Heldout", fields=False)
class Heldout:
    """A problem's unseen pairs, with the problem's own space, mode and direction."""

    heldout = None

    def __init__(self, whole: Whole, inside: Inside, part: Part, name: str = "held out", drawn: str = "") -> None:
        self._whole, self._part = whole, part
        self.drawn = drawn
        """Which of the held-out pairs these are, in words; empty where they are all."""
        self.space, self.mode = whole.space, whole.mode
        self.metric, self.task, self.summary = whole.metric, f"{whole.task} ({name})", whole.summary
        self.size, self.cost, self.ids = part.size, part.cost, part.ids
        self.effects, self.value, self.gradient = part.effects, part.value, part.gradient
        self.input_gradient = partial(input_gradient, part)
        self.scores, self.side_values = part.scores, part.side_values
        self.reported, self.surrogate, self.target = part.reported, inside.surrogate, inside.target
        self.value_and_effects = part.value_and_effects
        if isinstance(part, SetProblem):
            self.redrawn, self.strata = part.redrawn, part.strata
        self.weights, self.clusters = part.weights, inside.groups_of(part.ids)

    @property
    def direction(self) -> Direction:
        """The problem's own. Raises NoDirection."""
        own: Direction = self._whole.direction
        return own

    @cached_property
    def full_is_clear(self) -> bool:
        """Whether these pairs show that swapping everything moves the metric, beyond rounding and chance."""
        return full_swap(self._part, self.clusters).is_clear

    @property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return self._part.reported_base


@dataclass(eq=False, kw_only=True)
class Parts:
    """The problem on each list of pairs."""

    training: Part
    """The problem on the training pairs."""
    held: Part | None
    sealed: Callable[[], Part] | None
    """Builds the part of the audit, which waits until it is asked for."""
    audit_size: int
    """How many pairs nothing touches until the end; counted without building them."""
    some: Part | None
    """The training pairs that searches see, where those are not all."""
    build: Callable[[Sequence[int]], Part]
    """Builds the problem on any pairs, by their indices."""

    @classmethod
    def built(cls, builder: Builder, settled: Settled, memory: str | float | int | None) -> Parts:
        """Donor values and base scores of each part; those of the audit wait. Raises InputError."""
        encoding = _with_prefixes(settled.encoding, builder)

        def pairs(indices: Sequence[int]) -> list[EncodedPair]:
            return [encoding.pairs[i] for i in indices]

        def build(indices: Sequence[int]) -> Part:
            return builder.part(pairs(indices))

        needed = [pairs(indices) for indices in (settled.training, settled.judged) if indices]
        if memory is not None:
            budget = memory_budget(memory, builder.model.device)
            check_budget(memory, budget, max(map(builder.least_memory, needed)))
        training = build(settled.training)
        held = build(settled.judged) if settled.judged else None
        sealed = partial(build, settled.audit) if settled.audit else None
        some = build(settled.subset) if settled.subset else None
        if some is not None:
            some.use_cost(training.cost, some.size / training.size)
        return cls(training=training, held=held, sealed=sealed, audit_size=len(settled.audit), some=some, build=build)


def _with_prefixes(encoding: Encoding, builder: Builder) -> Encoding:
    """The pairs with the prefix that is kept of each."""
    if not builder.packing.keep_prefix:
        return encoding
    keeps = builder.packing.keeps_prefix
    found = (replace(pair, prefix=builder.source.prefix(pair) if keeps(pair) else 0) for pair in encoding.pairs)
    return replace(encoding, pairs=tuple(found))


@dataclass(eq=False, kw_only=True)
class Inside(Parts):
    """The parts of a problem and what is known of them. Not kept stable from version to version."""

    whole: Callable[[], Whole]
    """Gives the problem whose inside this is."""
    model: LanguageModel
    space: ComponentSpace
    mode: Mode
    source_task: Task
    """The task that the problem was made of."""
    manner: dict[str, Any]
    """How prompts are written and passes are run: the same for whatever else is put to this model."""
    donors: DonorSource
    encoding: Encoding
    refused: tuple[Refusal, ...]
    question: Mapping[str, str]
    """Provenance that results carry, beside metric, task and space."""
    division: Division
    """Which pairs are held out, which searches see, and which judge."""
    features: tuple[Told, ...]
    """Facts about each dictionary whose features are components."""
    metric_name: str
    """The metric as it was named, such as ``metric.py:function``; its own name where it came as a function."""
    unseen: Sequence[int]
    """The pairs that no search sees, whether or not they judge; without those of the audit."""
    groups: Mapping[str, str]
    batching: Batching
    storage: Storage
    full_swap: FullSwap
    judging: dict[tuple[int, ...], Heldout] = field(default_factory=dict)
    """Other held-out pairs that were asked to judge."""

    @property
    def problem(self) -> Whole:
        """The problem whose inside this is."""
        return self.whole()

    @property
    def full_is_clear(self) -> bool:
        """Whether the training pairs show that swapping everything moves the metric, beyond rounding and chance."""
        return self.full_swap.is_clear

    @property
    def packing(self) -> Packing:
        """How examples share rows, and how many tokens a forward pass holds now."""
        return self.training.scorer.packing

    @property
    def batch_plan(self) -> dict[str, Any]:
        """How the passes are cut, with every change since memory ran out, and where values are stored."""
        return self.batching.to_dict() | {"stored": self.stored}

    @property
    def stored(self) -> dict[str, int]:
        """Bytes of donor values and kept prefixes in ``memory``, on ``disk`` and ``recomputed``."""
        return {where: self.storage.used[where] for where in ("memory", "disk", "recomputed")}

    @property
    def counted_parts(self) -> dict[str, PairProblem | SetProblem]:
        """``training``, and ``heldout`` where pairs are: those that have a count of their own."""
        return {"training": self.training} | ({} if self.held is None else {"heldout": self.held})

    @property
    def drawn(self) -> str:
        """Which of the held-out pairs judge, in words; empty where they all do."""
        return "" if self.held is None else self.division.drawn(range(self.held.size), self.unseen)

    @property
    def heldout_size(self) -> int:
        """How many pairs no search sees, whether or not they judge; without those of the audit."""
        return len(self.unseen)

    def heldout_of(self, judge_pairs: JudgePairs) -> Whole:
        """The same on other held-out pairs: at most so many, drawn by the problem's seed, or ``"all"``. InputError."""
        labels = self.groups_of([pair.pair.id for pair in self.encoding.pairs])
        indices = tuple(judging(self.unseen, labels, judge_pairs, self.division.seed))
        if self.held is None or len(indices) == self.held.size:
            return self.problem.heldout
        if indices not in self.judging:
            said = self.division.drawn(indices, self.unseen)
            self.judging[indices] = Heldout(self.problem, self, self.build(indices), drawn=said)
        return self.judging[indices]

    @property
    def searched(self) -> Whole:
        """The problem that searches see: itself, or the same on ``search_pairs`` of its pairs."""
        return self.problem if self.some is None else Heldout(self.problem, self, self.some, "subset")

    @cached_property
    def audit(self) -> Heldout | None:
        """The same problem on the pairs that neither search nor choice has seen; built when first asked for."""
        return None if self.sealed is None else Heldout(self.problem, self, self.sealed(), "audit")

    def groups_of(self, ids: Sequence[str]) -> list[str]:
        """Return the group of each pair, which a split keeps together and intervals resample."""
        return [self.groups[name] for name in ids]

    @property
    def clusters(self) -> list[str]:
        """The group of each training pair."""
        return self.groups_of(self.training.ids)

    @property
    def weights(self) -> Float[Tensor, "example"]:
        """How much each training pair counts in the aggregate."""
        return self.training.weights

    @property
    def strata(self) -> list[int] | None:
        """The kind of each training pair, where a metric of the whole set compares several."""
        return self.training.strata if isinstance(self.training, SetProblem) else None

    @property
    def coverage(self) -> Coverage:
        """How many pairs were refused, by group, and how many have no donor position at a role."""
        roles = list(dict.fromkeys(block.role for block in self.space.blocks))
        return Coverage.of(self.source_task.pairs, self.refused, self.encoding.pairs, roles)

    @property
    def plan(self) -> Plan:
        """Pairs, tokens, components and memory."""
        layouts = self.training.scorer.all_layouts
        parts, stored = self.counted_parts, self.stored
        return Plan(
            pairs=self.training.size,
            heldout_pairs=self.heldout_size,
            judged_pairs=parts["heldout"].size if "heldout" in parts else 0,
            refused_pairs=len(self.refused),
            components=len(self.space),
            tokens=sum(layout.tokens for layout in layouts),
            padded_tokens=sum(layout.cells for layout in layouts),
            batches=len(layouts),
            packed=self.packing.packed,
            donor_bytes=sum(part.scorer.donors.nbytes for part in parts.values()),
            rows=sum(layout.rows for layout in layouts),
            searched_pairs=self.searched.size,
            memory_bytes=stored["memory"],
            disk_bytes=stored["disk"],
            recomputed_bytes=stored["recomputed"],
        )

    def value_and_effects(self, masks: Any) -> tuple[Float[Tensor, "*mask"], Float[Tensor, "*mask example"] | None]:
        """Both from one evaluation; no effects where the metric has none of each pair."""
        return self.training.value_and_effects(masks)

    @property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return self.training.reported_base

    @property
    def target(self) -> float | None:
        """The level that is aimed at; None where the direction is up or down."""
        return target_of(self.training.metric)

    @property
    def surrogate(self) -> bool:
        """Whether searches see another quantity than ``reported``."""
        return self.training.metric.surrogate

    def reported(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The metric's own level under one mask or several, as people read it: hard where searches see a soft one."""
        return self.training.reported(masks)

    def redrawn(self, masks: Any, counts: Iterable[Any]) -> Float[Tensor, "mask draw"]:
        """The value of a metric of the whole set on resampled training pairs: see ``SetProblem.redrawn``."""
        if not isinstance(self.training, SetProblem):
            raise InputError(f"{self.training.metric.name} has an effect of each pair: resample effects")
        return self.training.redrawn(masks, counts)

    def input_gradient(self, share: float, examples: Examples = None) -> Float[Tensor, "n"]:
        """Gradient along donor minus base activations, with token embeddings so much the donor's: EAP-IG on nodes.

        ``share`` 0 is the base prompt, 1 the counterfactual. Raises InputError for a metric of the whole set, and where
        donors are not counterfactual runs of equal length.
        """
        return input_gradient(self.training, share, examples)
