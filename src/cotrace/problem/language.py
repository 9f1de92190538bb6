"""LanguageProblem: a model, prompt pairs, donors and a metric, as a Problem that every search can solve."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float
from torch import Tensor

from cotrace.batches import Align, Bos, Packing
from cotrace.batches.encode import ALL
from cotrace.components import FEATURE_SITES, OF_DICTIONARIES, Component, ComponentSpace, Layers, Site
from cotrace.dictionaries import Dictionaries, Dictionary
from cotrace.dictionaries.placed import with_dictionaries
from cotrace.donors import DonorSource, Mean, check_sites, donor_source, donor_words
from cotrace.errors import InputError
from cotrace.interventions.storage import Storage
from cotrace.metrics import METRICS, AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.models.language_model import ModelState
from cotrace.models.places import named_space
from cotrace.problem._coverage import NestedSites, warn_of
from cotrace.problem.batching import Batching, Checkpointing
from cotrace.problem.builder import Builder, Division, Settled, Writing, check_options, overlap_words, settle
from cotrace.problem.capture import Captured, activations, attention
from cotrace.problem.divided import DividedProblem
from cotrace.problem.evaluator import single_effects
from cotrace.problem.full_swap import Breakdown, breakdown
from cotrace.problem.passes import (
    Rows,
    check_frequencies,
    check_memory,
    choose_packing,
    is_size,
    kept_budget,
    memory_budget,
    quicker,
)
from cotrace.problem.protocol import JudgePairs, Mode
from cotrace.problem.set_metric import aim
from cotrace.problem.spaces import PoorDictionary, Told, active_features
from cotrace.prompts import Task
from cotrace.results import Frontier, Selection
from cotrace.text import escape
from cotrace.text.progress_bar import warn
from cotrace.validation import check_seed, checked, guarded, names_of

if TYPE_CHECKING:
    import pandas as pd

Positions = Literal["prompt", "prompt+answer"]
FEATURES = (Site.FEATURE,)
"""The sites where dictionaries are given and no site is."""


SHOWN = (
    "activations",
    "attention",
    "breakdown",
    "cost",
    "direction",
    "effects",
    "gradient",
    "heldout",
    "metric",
    "mode",
    "model",
    "scores",
    "side_values",
    "single_effects",
    "size",
    "space",
    "summary",
    "task",
    "value",
)
"""Names that users need of a problem."""


@guarded("ct.LanguageProblem", fields=False)
class LanguageProblem(DividedProblem):
    """Which components of a language model, together, drive a metric? See ``problem.protocol.Problem``.

    Donor values are computed once, here; base scores and the direction when first asked for. Raises CotraceError
    subclasses for bad input.

    Args:
        model: From ``load_model`` or ``wrap``.
        task: The prompt pairs, with their metric.
        sites: What may be chosen: sites (``head_output``, ``head_output@last``), components (``L4.head2``,
            ``L4.head*``, ``L*.head2``; ``L4.*`` are the layer's heads and its MLP), a ComponentSpace, or a shortlist:
            the components of a Selection, or of all sets of another run's Frontier. None for the task's.
        layers: Layers to keep: a range, numbers, or text (``8..16``, both included); None for all.
        dictionaries: From ``load_dictionaries``. They make the sites ``feature``, the features that are active in the
            base or donor run of a training pair, and ``error``, all that they leave; ``model`` has them from then on.
        donors: Where the values that are swapped in come from, such as ``noise=0.6``; None for the task's.
        metric: Name, metric or function of your own; None for the task's.
        mode: ``swap``: the chosen take the donor's value; ``keep``: the chosen keep running, all others take it.
        direction: ``maximise``, ``minimise`` or ``target=NUMBER``. None for the sign of the full swap; a gap is
            minimised. Where the full swap is within rounding or its interval covers 0 there is none, and whatever needs
            one (searches, ``evaluate``, sums, constraints) asks for it; effects do not.
        holdout: Share of the pairs that no search sees; 0 keeps all in.
        audit: A third share, which nothing touches until the final figures.
        split_by: Field whose pairs of one value stay on one side of the split; None for ``split_group``.
        seed: Seed of the split and of the pairs that are drawn.
        align: ``exact``, ``ends`` (common head and tail) or ``spans`` (cut at the spans that the pairs name).
        roles: Position roles by which each component is split: ``all``, ``last``, ``subject``, spans.
        positions: ``prompt``, or ``prompt+answer``: donors act on answers as well.
        prepend_bos: Token for the beginning in front of prompts: ``auto``, ``yes`` or ``no``.
        template_arguments: Arguments of the model's chat template.
        batch_tokens: Most tokens in one forward pass; None for as many as suit the model.
        packing: ``packed`` puts several examples and answers into a row where the model allows, ``plain`` gives each a
            row of its own and keeps no prefixes; ``measured`` takes, for models below a million parameters, plain rows
            where a sample is a tenth quicker with them. Effects differ in their last digits, so that two problems that
            measured need not agree to the byte.
        search_pairs: Training pairs that searches see, drawn by seed; the frontier is of all. None for all.
        judge_pairs: Held-out pairs that judge, whole groups drawn by seed; None for 1,000, ``"all"`` for all.
        memory: Bound of donor values and kept prefixes (``"4GB"``, ``0.5`` of what is free): the rest is on disk, or
            computed anew. A size also bounds the tokens of a forward pass. None for half of what is free.
        checkpointing: Activations computed again in the backward pass: ``auto`` (when memory runs out), ``on`` or
            ``off``.
    """

    @checked("ct.LanguageProblem")
    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        *,
        sites: Sequence[str | Site | Component] | ComponentSpace | Frontier | Selection | None = None,
        layers: Layers = None,
        dictionaries: Dictionaries | Sequence[Dictionary] | None = None,
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
        packing: Rows = "packed",
        search_pairs: int | None = None,
        judge_pairs: JudgePairs = None,
        memory: str | float | int | None = None,
        checkpointing: Checkpointing = "auto",
    ) -> None:
        check_options(mode, align, positions, checkpointing, packing, batch_tokens)
        check_seed("ct.LanguageProblem", seed)
        if memory is not None:
            check_memory(memory)
        roles = names_of("ct.LanguageProblem", "roles", roles)
        self.mode, self.source_task, self.task = mode, task, task.name
        self.manner = {
            "prepend_bos": prepend_bos,
            "template_arguments": template_arguments,
            "batch_tokens": batch_tokens,
            "packing": packing,
            "memory": memory,
            "checkpointing": checkpointing,
        }
        self.division = Division(
            holdout=holdout,
            audit=audit,
            split_by=split_by,
            seed=seed,
            search_pairs=search_pairs,
            judge_pairs=judge_pairs,
        )
        self.model = model if dictionaries is None else _with(model, dictionaries)
        if sites is None:
            sites = task.sites if dictionaries is None else FEATURES
        chosen, wanted = aim(metric_named(metric or task.metric), direction, mode)
        self.metric_name = metric if isinstance(metric, str) else chosen.name if metric else task.metric
        self.space = named_space(self.model, sites, roles, layers)
        if dictionaries is not None and OF_DICTIONARIES.isdisjoint(self.space.sites):
            raise InputError(
                "dictionaries are given, and no site is feature or error: name it in sites, or leave them out"
            )
        source = self._source(donors or task.donors, align)
        writing = Writing(align=align, prepend_bos=prepend_bos, template_arguments=template_arguments or {})
        settled = settle(self.model, task, self.space, source, writing, self.division)
        self.donors, self.encoding, self.groups = settled.donors, settled.encoding, settled.groups
        self.unseen, self.audit_size = settled.heldout, len(settled.audit)
        warn_of(settled.encoding, self.space, task)
        self.question = {
            "model": model.name,
            "donors": donor_words(donors or task.donors),
            "align": align,
            "positions": positions,
            "split": "; ".join(filter(None, (self.division.words, self.division.drawn(settled.judged, self.unseen)))),
        }
        packed = self._packed(positions)
        self.features = ()
        if not isinstance(sites, ComponentSpace) and not FEATURE_SITES.isdisjoint(self.space.sites):
            self.features = self._tell_features(settled, packed)
        self._build(settled, packed, chosen)
        self.given_direction = wanted
        if self.metric_name not in METRICS or not isinstance(metric, str | None):
            _ = self.full_swap  # one of the user's own is tried at once
        if mode == "keep":
            _ = self.training.swing

    def _source(self, given: str | DonorSource, align: Align) -> DonorSource:
        """The donors. Raises InputError where they do not fit a site; warns of components that hold one another."""
        source = donor_source(given)
        check_sites(source, self.space, align)
        if words := overlap_words(self.model, self.space, source, self.mode):
            warn(words, NestedSites)
        return source

    def _packed(self, positions: Positions) -> Packing:
        """How examples share rows. Raises AlignmentError."""
        reference = (self.donors.reference or ()) if isinstance(self.donors, Mean) else ()
        memory, pairs = self.manner["memory"], self.encoding.pairs
        size = memory_budget(memory, self.model.device) if memory is not None and is_size(memory) else None
        rows = self.manner["packing"]
        packing = choose_packing(self.model, pairs, self.manner["batch_tokens"], rows != "plain", reference, size)
        packing = replace(packing, patch_answers=positions == "prompt+answer")
        if packing.patch_answers and packing.frequencies is not None:
            check_frequencies(pairs, packing, packing.frequencies.after)
        if rows != "measured":
            return packing
        found = quicker(self.model, pairs, self.donors, packing)
        self.manner["packing"] = "packed" if found is packing else "plain"  # what is built like this one takes the same
        return found

    def _build(self, settled: Settled, packing: Packing, metric: AnyMetric) -> None:
        """Record donor values and score the base run of each part; those of the audit wait. Raises InputError."""
        self.batching = Batching(packing.batch_tokens, self.manner["checkpointing"])
        memory = self.manner["memory"]
        self.storage = Storage(kept_budget(memory, self.model, packing.batch_tokens))
        builder = Builder(
            self.model,
            self.space,
            settled.donors,
            packing,
            metric,
            self.mode,
            self.source_task.score == "mean",
            self.batching,
            self.storage,
            ModelState.of(self.model),
            memory,
        )
        prefixed = builder.with_prefixes(settled)
        if memory is not None:
            builder.check_memory(prefixed, memory)
        self.build = lambda indices: builder.part(prefixed.pairs(indices))
        self.part = self.training = self.build(settled.training)
        self.held = self.build(settled.judged) if settled.judged else None
        self.sealed = partial(self.build, settled.audit) if settled.audit else None
        self.some = self.build(settled.subset) if settled.subset else None
        if self.some is not None:
            self.some.use_cost(self.training.cost, self.some.size / self.training.size)
        self.judging = {}

    def _tell_features(self, settled: Settled, packing: Packing) -> tuple[Told, ...]:
        """Take the features that are active on the training pairs as components; what is known of each dictionary."""
        pairs = settled.pairs(settled.training)
        found = active_features(self.model, self.space, settled.donors, packing, pairs)
        self.model, self.space = found.model, found.space
        for told in (one for one in found.told if one.explained < 0):
            warn(
                f"dictionary {told.name} reconstructs L{told.layer} {told.site} worse than its mean does (explained "
                f"variance {told.explained:.2f}): check that it belongs to this model and hook",
                PoorDictionary,
            )
        return found.told

    def breakdown(self, masks: Any, by: str = "group", *, heldout: bool = False) -> Breakdown:
        """The effect of one mask, Selection or list of names on each subgroup: ``by`` is a field of the pairs.

        Args:
            masks: One mask [n], Selection or list of names.
            by: Field of the pairs, or key of their ``meta``.
            heldout: On held-out pairs rather than training pairs.
        """
        view = self.heldout if heldout else self
        if view is None:
            raise InputError("nothing is held out, so there is no held-out breakdown: build the problem with holdout")
        return breakdown(view.part, view.masks(masks), by, view.clusters)

    def single_effects(
        self, exact: bool = True, *, progress: Callable[[int, int], None] | bool | None = None
    ) -> pd.DataFrame:
        """The effect of each component by itself, in the order of the space, as a DataFrame.

        Columns: component, site, layer, unit (empty for a whole layer), role; effect, on the pairs that searches see
        (``search_pairs``), with the ends ci_low and ci_high of its 95 % bootstrap interval; effect_heldout. What is not
        known (too few pairs, none held out) is NaN. In ``keep`` mode it is what one component kept alone restores.
        ``exact``: N forward-equivalents on each part of the pairs, several components in one pass. Else to first order
        from the gradient where none is chosen (attribution patching): 2. ``progress``: True for a bar, False for
        none, None for one in notebooks, or a function of (done, total). ``ct.report.effect_map`` draws the table.
        """
        return single_effects(self, exact, progress=progress)

    def attention(
        self, heads: Any, pairs: str | Sequence[str] | None = None, run: Any = "base", *, out: str | Path | None = None
    ) -> Captured[Float[Tensor, "head query key"]]:
        """The attention pattern of heads on each prompt: {pair id: [head, query, key]}, on the CPU, with ``.tokens``.

        ``heads``: names such as ``L4.head2``, components or a Selection, in the space or not. ``pairs``: ids, training
        or held out; None for all in training. ``run``: ``base``, ``donor`` (the prompt that donor values come from; of
        several draws of noise the first) or a set (names, a Selection or a mask [n] of the space), which acts on the
        base prompt. With ``out`` the patterns are streamed to a new safetensors file, a tensor ``ID/attention`` for
        each pair, and stay there. Raises InputError, UnsupportedSite, OutputExists.
        """
        return attention(self, heads, pairs, run, out)

    def activations(
        self, names: Any, pairs: str | Sequence[str] | None = None, run: Any = "base", *, out: str | Path | None = None
    ) -> Captured[dict[str, Float[Tensor, "position feature"]]]:
        """The values of components on each prompt: {pair id: {name: [position, feature]}}, with ``.tokens``.

        Any component of the model; a pattern is [query, key]. The position role in a name says where it is swapped, and
        narrows nothing here. ``pairs``, ``run`` and ``out`` (tensors ``ID/NAME``) as in ``attention``.

        Args:
            names: Names of components, or one.
        """
        return activations(self, names, pairs, run, out)

    def __dir__(self) -> list[str]:
        """Return the names that users need: the other attributes are for who stores and draws a problem."""
        return [*filter(re.compile("_").match, super().__dir__()), *SHOWN]

    def _repr_html_(self) -> str:
        facts = {
            "model": self.model.name,
            "task": self.task,
            "metric": self.metric,
            "mode": self.mode,
            "components": f"{len(self.space)}: {self.space.outline}",
            "pairs searched": f"{self.searched.size} of {self.size}" if self.some else self.size,
            "pairs held out": self.heldout_size,
            "pairs that judge": self.drawn,
            "pairs refused": f"{len(self.refused)}; the first: {self.refused[0].reason}" if self.refused else "",
        }
        return escape.facts("Problem", facts) + escape.paragraph(self.summary)

    def __repr__(self) -> str:
        return (
            f"LanguageProblem({self.model.name}, {self.task}, {self.metric}, {self.mode}, {self.space.outline}, "
            f"{self.size} pairs + {self.heldout_size} held out)"
        )


def _with(model: LanguageModel, dictionaries: Dictionaries | Sequence[Dictionary]) -> LanguageModel:
    """The model with these dictionaries at their places."""
    trained_on = dictionaries.trained_on if isinstance(dictionaries, Dictionaries) else None
    return with_dictionaries(model, dictionaries, trained_on)
