"""LanguageProblem: a model, prompt pairs, donors and a metric, as a Problem that every search can solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from cotrace.metrics import AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.models.language_model import ModelState
from cotrace.problem._coverage import NestedSites, warn_of
from cotrace.problem.builder import Builder, Division, Settled, Writing, check_options, overlap_words, settle
from cotrace.problem.capture import Captured, activations, attention
from cotrace.problem.evaluator import single_effects
from cotrace.problem.full_swap import DIRECTIONS, Breakdown, NoDirection, breakdown, full_swap, preferred
from cotrace.problem.inside import Heldout, Inside, Parts
from cotrace.problem.passes import (
    Batching,
    Checkpointing,
    check_frequencies,
    check_memory,
    choose_packing,
    is_size,
    memory_budget,
    token_bytes,
)
from cotrace.problem.protocol import Cost, Direction, Examples, JudgePairs, Loss, Mode
from cotrace.problem.set_metric import aim
from cotrace.problem.spaces import PoorDictionary, Told, active_features, space_of, told_words
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


@guarded("ct.LanguageProblem", fields=False)
class LanguageProblem:
    """Which components of a language model, together, drive a metric? See ``problem.protocol.Problem``.

    Donor values and base scores are computed once, here. Raises CotraceError subclasses for bad input.

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
        pack: False gives every answer a row of its own and keeps no prefixes: slower, for checking.
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
        pack: bool = True,
        search_pairs: int | None = None,
        judge_pairs: JudgePairs = None,
        memory: str | float | int | None = None,
        checkpointing: Checkpointing = "auto",
    ) -> None:
        check_options(mode, align, positions, checkpointing, batch_tokens)
        check_seed("ct.LanguageProblem", seed)
        check_memory(memory)
        roles = names_of("ct.LanguageProblem", "roles", roles)
        if dictionaries is not None:
            trained_on = dictionaries.trained_on if isinstance(dictionaries, Dictionaries) else None
            model = with_dictionaries(model, dictionaries, trained_on)
            sites = FEATURES if sites is None else sites
        self.mode = mode
        chosen, wanted = aim(metric_named(metric or task.metric), direction, mode)
        self.model, self.space = model, space_of(model, sites if sites is not None else task.sites, roles, layers)
        if dictionaries is not None and OF_DICTIONARIES.isdisjoint(self.space.sites):
            raise InputError(
                "dictionaries are given, and no site is feature or error: name it in sites, or leave them out"
            )
        source = donor_source(donors or task.donors)
        check_sites(source, self.space, align)
        if words := overlap_words(model, self.space, source, mode):
            warn(words, NestedSites)
        writing = Writing(align=align, prepend_bos=prepend_bos, template_arguments=template_arguments or {})
        division = Division(
            holdout=holdout,
            audit=audit,
            split_by=split_by,
            seed=seed,
            search_pairs=search_pairs,
            judge_pairs=judge_pairs,
        )
        settled = settle(model, task, self.space, source, writing, division)
        warn_of(settled.encoding, self.space, task)
        reference = (settled.donors.reference or ()) if isinstance(settled.donors, Mean) else ()
        most = memory_budget(memory, model.device)
        size = most if is_size(memory) else None
        packing = choose_packing(model, settled.encoding.pairs, batch_tokens, pack, reference, size)
        packing = replace(packing, patch_answers=positions == "prompt+answer")
        check_frequencies(settled.encoding.pairs, packing)
        features = () if isinstance(sites, ComponentSpace) else self._tell_features(settled, packing)
        builder = Builder(
            self.model,
            self.space,
            settled.donors,
            packing,
            chosen,
            mode,
            task.score == "mean",
            Batching(packing.batch_tokens, checkpointing),
            Storage(most if size is None else size - min(size // 2, packing.batch_tokens * token_bytes(model))),
            ModelState.of(model),
            memory,
        )
        parts = Parts.built(builder, settled, memory)
        labels = [settled.groups[name] for name in parts.training.ids]
        self.inside = Inside(
            whole=lambda: self,
            model=self.model,
            space=self.space,
            mode=mode,
            source_task=task,
            manner={
                "prepend_bos": prepend_bos,
                "template_arguments": template_arguments,
                "batch_tokens": batch_tokens,
                "pack": pack,
                "memory": memory,
                "checkpointing": checkpointing,
            },
            donors=settled.donors,
            encoding=settled.encoding,
            refused=tuple(settled.encoding.refused),
            question={
                "model": model.name,
                "donors": donor_words(donors or task.donors),
                "align": align,
                "positions": positions,
                "split": division.words
                + (f"; {said}" if (said := division.drawn(settled.judged, settled.heldout)) else ""),
            },
            division=division,
            features=features,
            metric_name=metric if isinstance(metric, str) else chosen.name if metric else task.metric,
            unseen=settled.heldout,
            groups=settled.groups,
            batching=builder.batching,
            storage=builder.storage,
            full_swap=full_swap(parts.training, labels),
            **vars(parts),
        )
        """The parts that the problem is built of, for those who judge and store it; not kept stable."""
        self._direction = wanted or preferred(self.inside.full_swap, mode, chosen)
        if mode == "keep":
            _ = parts.training.swing

    def _tell_features(self, settled: Settled, packing: Packing) -> tuple[Told, ...]:
        """Take the features that are active on the training pairs as components; what is known of each dictionary."""
        if FEATURE_SITES.isdisjoint(self.space.sites):
            return ()
        pairs = [settled.encoding.pairs[i] for i in settled.training]
        found = active_features(self.model, self.space, settled.donors, packing, pairs)
        self.model, self.space = found.model, found.space
        for told in (one for one in found.told if one.explained < 0):
            warn(
                f"dictionary {told.name} reconstructs L{told.layer} {told.site} worse than its mean does (explained "
                f"variance {told.explained:.2f}): check that it belongs to this model and hook",
                PoorDictionary,
            )
        return found.told

    @property
    def direction(self) -> Direction:
        """The one given, else that of the full swap. Raises NoDirection where it shows none."""
        if self._direction is None:
            raise NoDirection(self.inside.full_swap)
        return self._direction

    @property
    def heldout(self) -> Heldout | None:
        """The same problem on unseen pairs, those that judge; None where nothing is held out."""
        return (
            None if self.inside.held is None else Heldout(self, self.inside, self.inside.held, drawn=self.inside.drawn)
        )

    @property
    def metric(self) -> str:
        return self.inside.training.metric.name

    @property
    def task(self) -> str:
        return self.inside.source_task.name

    @property
    def size(self) -> int:
        return self.inside.training.size

    @property
    def cost(self) -> Cost:
        return self.inside.training.cost

    @property
    def summary(self) -> str:
        """The question in words, with the full swap and the direction; first of all where no effect is shown."""
        swap = self.inside.full_swap
        moves = f"{swap.caution}{self.inside.coverage.words}{swap.words}"
        if self.inside.features:
            moves += f". {told_words(self.inside.features)}"
        if self._direction is None:
            return f"{moves}. A search for k of {self.space.outline} needs a direction: give {DIRECTIONS}."
        aim = {"maximise": "largest", "minimise": "smallest"}[self._direction]
        what = "restored by keeping" if self.mode == "keep" else "moved by swapping"
        return f"{moves}. Looking for the {aim} effect {what} k of {self.space.outline}."

    def scores(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example answer"]:
        """log p(answer | prompt) of every answer, under one mask or several.

        Args:
            masks: One set (a mask [n], a Selection or component names) or several ([mask, n], or a list).
            examples: Indices of training pairs; None for all, in file order.
        """
        return self.inside.training.scores(masks, examples)

    def effects(self, masks: Any, examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Per-example effect of one set (a mask [n], a Selection or component names) or several ([mask, n], or a list).

        Raises InputError.

        Args:
            masks: A mask from 0 (own value) to 1 (donor's value), or names of the chosen.
            examples: Indices of training pairs; None for all, in file order.
        """
        return self.inside.training.effects(masks, examples)

    def value(self, masks: Any) -> Float[Tensor, "*mask"]:
        """The reported aggregate on all training pairs.

        Args:
            masks: One set (a mask [n], a Selection or component names) or several ([mask, n], or a list).
        """
        return self.inside.training.value(masks)

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Exact gradient of the mean of ``objective(effects)``, or of the reported aggregate where None.

        Args:
            z: Soft mask [n], from 0 to 1.
            objective: Differentiable function of the effects; None for the reported aggregate.
            examples: Indices of training pairs; None for all.
        """
        return self.inside.training.gradient(z, objective, examples)

    def breakdown(self, masks: Any, by: str = "group", *, heldout: bool = False) -> Breakdown:
        """The effect of one mask, Selection or list of names on each subgroup: ``by`` is a field of the pairs.

        Args:
            masks: One mask [n], Selection or list of names.
            by: Field of the pairs, or key of their ``meta``.
            heldout: On held-out pairs rather than training pairs.
        """
        part = self.inside.held if heldout else self.inside.training
        if part is None:
            raise InputError("nothing is held out, so there is no held-out breakdown: build the problem with holdout")
        return breakdown(part, masks, by, self.inside.groups_of(part.ids))

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
        return attention(self.inside, heads, pairs, run, out)

    def activations(
        self, names: Any, pairs: str | Sequence[str] | None = None, run: Any = "base", *, out: str | Path | None = None
    ) -> Captured[dict[str, Float[Tensor, "position feature"]]]:
        """The values of components on each prompt: {pair id: {name: [position, feature]}}, with ``.tokens``.

        Any component of the model; a pattern is [query, key]. The position role in a name says where it is swapped, and
        narrows nothing here. ``pairs``, ``run`` and ``out`` (tensors ``ID/NAME``) as in ``attention``.

        Args:
            names: Names of components, or one.
        """
        return activations(self.inside, names, pairs, run, out)

    def side_values(self, masks: Any) -> Float[Tensor, "*mask side"]:
        """Values that constraints bound; no columns where there are none.

        Args:
            masks: One mask [n] or several [mask, n].
        """
        return self.inside.training.side_values(masks)

    def __getattr__(self, name: str) -> Any:
        """Return an optional member of problems from inside (see ``problem.protocol``)."""
        inside = self.__dict__.get("inside")
        if inside is None or name.startswith("_") or name in ("problem", "whole") or name not in dir(inside):
            raise AttributeError(f"a LanguageProblem has no attribute {name!r}")
        return getattr(inside, name)

    def _repr_html_(self) -> str:
        facts = {
            "model": self.model.name,
            "task": self.task,
            "metric": self.metric,
            "mode": self.mode,
            "components": f"{len(self.space)}: {self.space.outline}",
            "pairs searched": f"{self.inside.searched.size} of {self.size}" if self.inside.some else self.size,
            "pairs held out": len(self.inside.unseen),
            "pairs that judge": self.inside.drawn,
            "pairs refused": f"{len(self.inside.refused)}; the first: {self.inside.refused[0].reason}"
            if self.inside.refused
            else "",
        }
        return escape.facts("Problem", facts) + escape.paragraph(self.summary)

    def __repr__(self) -> str:
        return (
            f"LanguageProblem({self.model.name}, {self.task}, {self.metric}, {self.mode}, {self.space.outline}, "
            f"{self.size} pairs + {len(self.inside.unseen)} held out)"
        )
