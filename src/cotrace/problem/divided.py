"""DividedProblem: a problem on some pairs of a task, which are searched, judge, or are sealed until the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from jaxtyping import Float
from torch import Tensor

from cotrace.batches import Encoding, Packing, Refusal
from cotrace.components import ComponentSpace, Mode
from cotrace.donors import DonorSource
from cotrace.interventions.storage import Storage
from cotrace.models import LanguageModel
from cotrace.problem._coverage import Coverage
from cotrace.problem.batching import Batching
from cotrace.problem.builder import Division, judging
from cotrace.problem.full_swap import DIRECTIONS, FullSwap, NoDirection, full_swap, preferred
from cotrace.problem.protocol import Direction, Examples, JudgePairs, Loss, Problem, as_masks, attribute
from cotrace.problem.scored import PairProblem
from cotrace.problem.set_metric import SetProblem, target_of
from cotrace.problem.spaces import Told, told_words
from cotrace.prompts import Task

Part = PairProblem | SetProblem
VIEWS = ("heldout", "searched", "audit")
"""The same problem on other pairs, kept once it was asked for."""


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


class DividedProblem(Problem):
    """A problem on a list of pairs, its ``part``, which knows what other lists its pairs are divided into.

    The same problem on another list (``heldout``, ``audit``, ``searched``) is a copy with another part. The attributes
    are not kept stable from version to version.
    """

    model: LanguageModel
    space: ComponentSpace
    mode: Mode
    task: str
    source_task: Task
    """The task that the problem was made of."""
    metric_name: str
    """The metric as it was named, such as ``metric.py:function``; its own name where it came as a function."""
    manner: dict[str, Any]
    """How prompts are written and passes are run: the same for whatever else is put to this model."""
    donors: DonorSource
    encoding: Encoding
    groups: Mapping[str, str]
    """Id of a pair -> what it stays together with in a split: the units that intervals resample."""
    division: Division
    """Which pairs are held out, which searches see, and which judge."""
    unseen: Sequence[int]
    """The pairs that no search sees, whether or not they judge; without those of the audit."""
    features: tuple[Told, ...]
    """Facts about each dictionary whose features are components."""
    question: Mapping[str, str]
    batching: Batching
    storage: Storage
    part: Part
    """The problem on these pairs, scored."""
    training: Part
    """The problem on the training pairs."""
    held: Part | None
    """The problem on the held-out pairs that judge."""
    sealed: Callable[[], Part] | None
    """Builds the part of the audit, which waits until it is asked for."""
    audit_size: int
    """How many pairs nothing touches until the end; counted without building them."""
    some: Part | None
    """The training pairs that searches see, where those are not all."""
    build: Callable[[Sequence[int]], Part]
    """Builds a part of any pairs, by their indices."""
    judging: dict[tuple[int, ...], DividedProblem]
    """Other held-out pairs that were asked to judge."""
    given_direction: Direction | None
    size = property(attrgetter("part.size"))
    cost = property(attrgetter("part.cost"))

    def _on(self, part: Part, name: str, drawn: str = "") -> DividedProblem:
        """The same problem on other pairs, which are divided no further."""
        view = copy(self)
        vars(view).update(
            part=part,
            task=f"{self.task} ({name})",
            drawn=drawn,
            held=None,
            some=None,
            sealed=None,
        )
        return view.forgetting()

    def forgetting(self) -> DividedProblem:
        """The problem itself, without what was worked out of another part."""
        for name in ("full_swap", *VIEWS):
            vars(self).pop(name, None)
        return self

    def with_parts(self, change: Callable[[Part], Part]) -> DividedProblem:
        """The same problem, each part of it changed by ``change``; figures that are known already stay."""
        made, build, sealed, swap = copy(self).forgetting(), self.build, self.sealed, self.full_swap
        training, some = change(self.training), None if self.some is None else change(self.some)
        if some is not None:
            some.use_cost(training.cost, some.size / training.size)
        vars(made).update(
            full_swap=swap,
            _training_swap=swap,
            part=training,
            training=training,
            held=None if self.held is None else change(self.held),
            some=some,
            sealed=None if sealed is None else lambda: change(sealed()),
            build=lambda indices: change(build(indices)),
            judging={},
        )
        return made

    @cached_property
    def heldout(self) -> DividedProblem | None:
        """The same problem on unseen pairs, those that judge; None where nothing is held out."""
        return (
            None
            if self.held is None
            else self._on(self.held, "held out", self.division.drawn(range(self.held.size), self.unseen))
        )

    @cached_property
    def searched(self) -> DividedProblem:
        """The problem that searches see: itself, or the same on ``search_pairs`` of its pairs."""
        return self if self.some is None else self._on(self.some, "subset")

    @cached_property
    def audit(self) -> DividedProblem | None:
        """The same problem on the pairs that neither search nor choice has seen; built when first asked for."""
        return None if self.sealed is None else self._on(self.sealed(), "audit")

    def heldout_of(self, judge_pairs: JudgePairs) -> DividedProblem | None:
        """The same on other held-out pairs: at most so many, drawn by the problem's seed, or ``"all"``. InputError."""
        labels = self.groups_of([pair.pair.id for pair in self.encoding.pairs])
        indices = tuple(judging(self.unseen, labels, judge_pairs, self.division.seed))
        if self.held is None or len(indices) == self.held.size:
            return self.heldout
        if indices not in self.judging:
            self.judging[indices] = self._on(self.build(indices), "held out", self.division.drawn(indices, self.unseen))
        return self.judging[indices]

    @property
    def built(self) -> list[Part]:
        """Every part that is built so far."""
        views = [vars(self).get("audit"), *self.judging.values()]
        parts = [self.training, self.held, self.some, *(view.part for view in views if view is not None)]
        return [part for part in parts if part is not None]

    @property
    def counted_parts(self) -> dict[str, Part]:
        """``training``, and ``heldout`` where pairs are: those that have a count of their own."""
        return {"training": self.training} | ({} if self.held is None else {"heldout": self.held})

    @cached_property
    def full_swap(self) -> FullSwap:
        """The full swap of these pairs."""
        return full_swap(self.part, self.clusters)

    @cached_property
    def _training_swap(self) -> FullSwap:
        """The full swap of the training pairs."""
        if self.part is self.training:
            return self.full_swap
        return full_swap(self.training, self.groups_of(self.training.ids))

    @cached_property
    def _direction(self) -> Direction | None:
        """The one given, else that of the training pairs' full swap; None where it shows none."""
        return self.given_direction or preferred(self._training_swap, self.mode, self.part.metric)

    @property
    def full_is_clear(self) -> bool:
        """Whether these pairs show that swapping everything moves the metric, beyond rounding and chance."""
        return self.full_swap.is_clear

    @property
    def direction(self) -> Direction:
        """The one given, else that of the training pairs' full swap. Raises NoDirection where it shows none."""
        if self._direction is None:
            raise NoDirection(self._training_swap)
        return self._direction

    @attribute
    def summary(self) -> str:
        """The question in words, with the full swap and the direction; first of all where no effect is shown."""
        swap = self._training_swap
        moves = f"{swap.caution}{self.coverage.words}{swap.words}"
        if self.features:
            moves += f". {told_words(self.features)}"
        if self._direction is None:
            return f"{moves}. A search for k of {self.space.outline} needs a direction: give {DIRECTIONS}."
        aim = {"maximise": "largest", "minimise": "smallest"}[self._direction]
        what = "restored by keeping" if self.mode == "keep" else "moved by swapping"
        return f"{moves}. Looking for the {aim} effect {what} k of {self.space.outline}."

    @attribute
    def drawn(self) -> str:
        """Which of the held-out pairs judge, in words; empty where they all do."""
        return "" if self.held is None else self.division.drawn(range(self.held.size), self.unseen)

    @property
    def metric(self) -> str:
        return self.part.metric.name

    @property
    def ids(self) -> list[str]:
        """Ids of these pairs, in file order."""
        return self.part.ids

    @property
    def weights(self) -> Float[Tensor, "example"]:
        """How much each pair counts in the aggregate."""
        return self.part.weights

    @property
    def clusters(self) -> list[str]:
        """The group of each pair."""
        return self.groups_of(self.part.ids)

    @property
    def strata(self) -> list[int] | None:
        """The kind of each pair, where a metric of the whole set compares several."""
        return self.part.strata

    def groups_of(self, ids: Sequence[str]) -> list[str]:
        """Return the group of each of these pairs, named by ``ids``."""
        return [self.groups[name] for name in ids]

    def scores(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example answer"]:
        """log p(answer | prompt) of every answer, under one mask or several.

        Args:
            masks: One set (a mask [n], a Selection or component names) or several ([mask, n], or a list).
            examples: Indices of these pairs; None for all, in file order.
        """
        return self.part.scores(self.masks(masks), examples)

    def effects(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one set (a mask [n], a Selection or component names) or several ([mask, n], or a list).

        Raises InputError.

        Args:
            masks: A mask from 0 (own value) to 1 (donor's value), or names of the chosen.
            examples: Indices of these pairs; None for all, in file order.
        """
        return self.part.effects(self.masks(masks), examples)

    def value(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The reported aggregate on all these pairs.

        Args:
            masks: One set (a mask [n], a Selection or component names) or several ([mask, n], or a list).
        """
        return self.part.value_and_effects(self.masks(masks))[0]

    def gradient(self, z: Any, objective: Loss | None = None, examples: Examples = None) -> Float[Tensor, "n"]:
        """Exact gradient of the mean of ``objective(effects)``, or of the reported aggregate where None.

        Args:
            z: Soft mask [n], from 0 to 1.
            objective: Differentiable function of the effects; None for the reported aggregate.
            examples: Indices of these pairs; None for all.
        """
        return self.part.gradient(self.masks(z), objective, examples)

    def value_and_effects(self, masks: Any) -> tuple[Float[Tensor, "*mask"], Float[Tensor, "*mask example"] | None]:
        """Both from one evaluation; no effects where the metric has none of each pair."""
        return self.part.value_and_effects(self.masks(masks))

    def side_values(self, masks: Any) -> Float[Tensor, "*mask side"]:
        """Values that constraints bound: no columns."""
        z = self.masks(masks)
        return z.new_zeros((*z.shape[:-1], 0))

    def input_gradient(self, share: float, examples: Examples = None) -> Float[Tensor, "n"]:
        """Gradient along donor minus base activations, with token embeddings so much the donor's: EAP-IG on nodes.

        ``share`` 0 is the base prompt, 1 the counterfactual. Raises InputError for a metric of the whole set, and where
        donors are not counterfactual runs of equal length.
        """
        return self.part.input_gradient(share, examples)

    @property
    def redraws(self) -> bool:
        """Whether the metric is of the whole set."""
        return isinstance(self.part, SetProblem)

    def redrawn(self, masks: Any, counts: Iterable[Any]) -> Float[Tensor, "mask draw"]:
        """The value of a metric of the whole set on resampled pairs: see ``SetProblem.redrawn``."""
        if not isinstance(self.part, SetProblem):
            return super().redrawn(masks, counts)
        return self.part.redrawn(self.masks(masks), counts)

    @property
    def surrogate(self) -> bool:
        """Whether searches see another quantity than ``reported``."""
        return self.part.metric.surrogate

    def reported(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The metric's own level under one mask or several, as people read it: hard where searches see a soft one."""
        return self.part.reported(self.masks(masks))

    @property
    def reported_base(self) -> float:
        """The metric's own level in the base run, as people read it."""
        return self.part.reported_base

    @property
    def target(self) -> float | None:
        """The level that is aimed at; None where the direction is up or down."""
        return target_of(self.part.metric)

    def masks(self, masks: Any) -> Float[Tensor, "*mask n"]:
        """Return ``masks`` as a tensor: nothing behind this looks at them again. Raises InputError."""
        return as_masks(masks, self.space, self.mode, self.part.dtype)

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """The pairs that cannot be used, each with its reason."""
        return tuple(self.encoding.refused)

    @property
    def heldout_size(self) -> int:
        """How many pairs no search sees, whether or not they judge; without those of the audit."""
        return len(self.unseen)

    @property
    def coverage(self) -> Coverage:
        """How many pairs were refused, by group, and how many have no donor position at a role."""
        roles = list(dict.fromkeys(block.role for block in self.space.blocks))
        return Coverage.of(self.source_task.pairs, self.refused, self.encoding.pairs, roles)

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
