"""LanguageProblem: a model, prompt pairs, donors and a metric, as a Problem that every search can solve."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from cotrace import markup
from cotrace.arguments import check_seed, checked, guarded, names_of
from cotrace.batches import Align, Bos, EncodedPair, Encoding, Packing, Refusal
from cotrace.batches.roles import ALL
from cotrace.components import ComponentSpace, Site
from cotrace.donors import DonorSource, Mean, check_sites, donor_source, donor_words
from cotrace.errors import InputError
from cotrace.interventions.storage import Storage
from cotrace.metrics import AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.models.unchanged import ModelState
from cotrace.problem.aim import aim, target_of
from cotrace.problem.batching import Batching, Checkpointing
from cotrace.problem.breakdown import Breakdown, breakdown
from cotrace.problem.coverage import Coverage
from cotrace.problem.heldout import Heldout
from cotrace.problem.memory import check_budget, check_memory, memory_budget
from cotrace.problem.packing import check_frequencies, choose_packing
from cotrace.problem.pairs import PairProblem
from cotrace.problem.parts import Builder
from cotrace.problem.plan import Plan, plan_of
from cotrace.problem.posing import Division, Settled, Writing, check_options, overlap_words, settle, space_of
from cotrace.problem.protocol import Cost, Direction, Examples, Loss, Mode
from cotrace.problem.summary import DIRECTIONS, FullSwap, NoDirection, full_swap, preferred
from cotrace.problem.whole import SetProblem
from cotrace.prompts import Task

Positions = Literal["prompt", "prompt+answer"]


class RefusedPairs(UserWarning):
    """Some pairs cannot be used; the problem lists them in ``refused``."""


class PairsWithoutDonor(UserWarning):
    """In some pairs no position of a role takes a donor's value; ``problem.coverage`` counts them."""


class NestedSites(UserWarning):
    """A component of the space holds another one."""


@guarded("ct.LanguageProblem", fields=False)
class LanguageProblem:
    """Which components of a language model, together, drive a metric? See ``problem.protocol.Problem``.

    ``holdout`` is the share of pairs that no search sees (0 keeps all in), ``audit`` a third share that nothing touches
    until the final figures; pairs with one value of the field ``split_by`` (default ``split_group``) stay together.
    The direction defaults to the sign of the full swap; a gap between groups is minimised. Where the full swap is
    within rounding or its interval covers 0 there is none, and whatever needs one (searches, ``evaluate``, sums,
    constraints) asks for ``direction``; effects do not. Donor values and base scores are computed once, here.
    ``pack=False`` gives every answer a row of its own and keeps no prefixes: slower, for checking.
    ``search_pairs`` lets searches see that many training pairs only, drawn by seed; the frontier is of all.
    ``memory`` (``"4GB"``, ``0.5`` of what is free) bounds donor values and kept prefixes: what goes beyond it is on
    disk, or computed anew. ``checkpointing`` (``auto``: when memory runs out) computes activations again in the
    backward pass. Raises CotraceError subclasses for bad input.
    """

    @checked("ct.LanguageProblem")
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
    ) -> None:
        check_options(mode, align, positions, checkpointing, batch_tokens)
        check_seed("ct.LanguageProblem", seed)
        check_memory(memory)
        roles = names_of("ct.LanguageProblem", "roles", roles)
        self.model, self._task, self.mode = model, task, mode
        chosen, wanted = aim(metric_named(metric or task.metric), direction, mode)
        self.space = space_of(model, sites if sites is not None else task.sites, roles)
        source = donor_source(donors or task.donors)
        check_sites(source, self.space, align)
        if words := overlap_words(self.space, source, mode):
            warnings.warn(words, NestedSites, stacklevel=3)
        self.manner: dict[str, Any] = {
            "prepend_bos": prepend_bos,
            "template_arguments": template_arguments,
            "batch_tokens": batch_tokens,
            "pack": pack,
            "memory": memory,
            "checkpointing": checkpointing,
        }
        """How prompts are written and passes are run: the same for whatever else is put to this model."""
        writing = Writing(align=align, prepend_bos=prepend_bos, template_arguments=template_arguments or {})
        division = Division(holdout=holdout, audit=audit, split_by=split_by, seed=seed, search_pairs=search_pairs)
        settled = settle(model, task, self.space, source, writing, division)
        self.donors, self.encoding, self._groups = settled.donors, settled.encoding, settled.groups
        self.question = {
            "model": model.name,
            "donors": donor_words(donors or task.donors),
            "align": align,
            "positions": positions,
            "split": division.words,
        }
        """What results say of where they come from, beside metric, task and space."""
        self.refused = _warn_of(self.encoding.refused, len(task))
        if said := self.coverage.positions:
            warnings.warn(said, PairsWithoutDonor, stacklevel=3)
        reference = (self.donors.reference or ()) if isinstance(self.donors, Mean) else ()
        packing = choose_packing(model, self.encoding.pairs, batch_tokens, pack, reference)
        packing = replace(packing, patch_answers=positions == "prompt+answer")
        check_frequencies(self.encoding.pairs, packing)
        self._batching = Batching(packing.batch_tokens, checkpointing)
        self._storage = Storage(memory_budget(memory, model.device))
        mean = task.score == "mean"
        self._build(
            Builder(
                model,
                self.space,
                self.donors,
                packing,
                chosen,
                mode,
                mean,
                self._batching,
                self._storage,
                ModelState.of(model),
                memory,
            ),
            settled,
            memory,
        )
        self.full_swap: FullSwap = full_swap(self.training, self.clusters)
        self._direction = wanted or preferred(self.full_swap, mode, chosen)
        if mode == "keep":
            _ = self.training.swing

    def _build(self, builder: Builder, settled: Settled, memory: str | float | int | None) -> None:
        """Donor values and base scores of each part; those of the audit wait until they are asked for."""
        encoding = (
            self._with_prefixes(settled.encoding, builder.packing) if builder.packing.keep_prefix else settled.encoding
        )

        def pairs(indices: Sequence[int]) -> list[EncodedPair]:
            return [encoding.pairs[i] for i in indices]

        needed = [pairs(indices) for indices in (settled.training, settled.heldout) if indices]
        check_budget(memory, self._storage.budget, max(map(builder.least_memory, needed)))
        self.training = builder.part(pairs(settled.training))
        self._held = builder.part(pairs(settled.heldout)) if settled.heldout else None
        self._sealed = partial(builder.part, pairs(settled.audit)) if settled.audit else None
        self._some = builder.part(pairs(settled.subset)) if settled.subset else None
        if self._some is not None:
            self._some.use_cost(self.training.cost, self._some.size / self.training.size)

    def _with_prefixes(self, encoding: Encoding, packing: Packing) -> Encoding:
        keeps = packing.keeps_prefix
        pairs = tuple(replace(pair, prefix=self.donors.prefix(pair) if keeps(pair) else 0) for pair in encoding.pairs)
        return replace(encoding, pairs=pairs)

    @property
    def direction(self) -> Direction:
        """The one given, else that of the full swap. Raises NoDirection where it shows none."""
        if self._direction is None:
            raise NoDirection(self.full_swap)
        return self._direction

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
        return self._batching.to_dict() | {"stored": self.stored}

    @property
    def stored(self) -> dict[str, int]:
        """Bytes of donor values and kept prefixes in ``memory``, on ``disk`` and ``recomputed``."""
        return {where: self._storage.used[where] for where in ("memory", "disk", "recomputed")}

    @property
    def counted_parts(self) -> dict[str, PairProblem | SetProblem]:
        """``training``, and ``heldout`` where pairs are: those that have a count of their own."""
        return {"training": self.training} | ({} if self._held is None else {"heldout": self._held})

    @property
    def searched(self) -> LanguageProblem | Heldout:
        """What searches see: the problem itself, or the same on ``search_pairs`` of its pairs."""
        return self if self._some is None else Heldout(self, self._some, "subset")

    @property
    def heldout(self) -> Heldout | None:
        """The same problem on unseen pairs; None where nothing is held out."""
        return None if self._held is None else Heldout(self, self._held)

    @cached_property
    def audit(self) -> Heldout | None:
        """The same problem on the pairs that neither search nor choice has seen; built when first asked for."""
        return None if self._sealed is None else Heldout(self, self._sealed(), "audit")

    @property
    def audit_size(self) -> int:
        """How many pairs nothing touches until the end; counted without building them."""
        return 0 if self._sealed is None else len(self._sealed.args[0])

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
    def strata(self) -> list[int] | None:
        """The kind of each training pair, where a metric of the whole set compares several."""
        return self.training.strata if isinstance(self.training, SetProblem) else None

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
        """How many pairs were refused, by group, and how many have no donor position at a role."""
        roles = list(dict.fromkeys(block.role for block in self.space.blocks))
        return Coverage.of(self._task.pairs, self.refused, self.encoding.pairs, roles)

    @property
    def summary(self) -> str:
        """The question in words, with the full swap and the direction; first of all where no effect is shown."""
        swap = self.full_swap
        moves = f"{swap.caution}{self.coverage.words}{swap.words}"
        if self._direction is None:
            return f"{moves}. A search for k of {self.space.outline} needs a direction: give {DIRECTIONS}."
        aim = {"maximise": "largest", "minimise": "smallest"}[self._direction]
        what = "restored by keeping" if self.mode == "keep" else "moved by swapping"
        return f"{moves}. Looking for the {aim} effect {what} k of {self.space.outline}."

    @property
    def plan(self) -> Plan:
        """Pairs, tokens, components and memory."""
        return plan_of(self)

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

    def breakdown(self, masks: Any, by: str = "group", *, heldout: bool = False) -> Breakdown:
        """The effect of one mask, Selection or list of names on each subgroup: ``by`` is a field of the pairs."""
        part = self._held if heldout else self.training
        if part is None:
            raise InputError("nothing is held out, so there is no held-out breakdown: build the problem with holdout")
        return breakdown(part, masks, by, self.groups_of(part.ids))

    def redrawn(self, masks: Any, counts: Iterable[Any]) -> Float[Tensor, "mask draw"]:
        """The value of a metric of the whole set on resampled training pairs: see ``SetProblem.redrawn``."""
        if not isinstance(self.training, SetProblem):
            raise InputError(f"{self.metric} has an effect of each pair: resample effects")
        return self.training.redrawn(masks, counts)

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
            "pairs searched": f"{self.searched.size} of {self.size}" if self._some else self.size,
            "pairs held out": 0 if self._held is None else self._held.size,
            "pairs refused": f"{len(self.refused)}; the first: {self.refused[0].reason}" if self.refused else "",
        }
        return markup.facts("Problem", facts) + markup.paragraph(self.summary)

    def __repr__(self) -> str:
        return (
            f"LanguageProblem({self.model.name}, {self.task}, {self.metric}, {self.mode}, {self.space.outline}, "
            f"{self.size} pairs + {0 if self._held is None else self._held.size} held out)"
        )


def _warn_of(refused: Sequence[Refusal], total: int) -> tuple[Refusal, ...]:
    if refused:
        warnings.warn(
            f"{len(refused)} of {total} pairs refused; the first: {refused[0].reason}", RefusedPairs, stacklevel=4
        )
    return tuple(refused)
