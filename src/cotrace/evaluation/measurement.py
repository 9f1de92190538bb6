"""``ct.measure``: what a model does with a task before any search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing, answer_layouts, encode_task
from cotrace.batches.encode import bare_prompts
from cotrace.errors import InputError, NonFiniteError
from cotrace.evaluation.measured import ALL, Measurement, Row
from cotrace.interventions.forward import answer_lengths, answer_scores, forward, next_logits
from cotrace.metrics import GROUPS, Answers, AnyMetric, Metric, SetMetric, metric_named, selection_rate_ratio
from cotrace.metrics.metric import Reads, chosen
from cotrace.models import LanguageModel
from cotrace.problem.passes import choose_packing
from cotrace.prompts import PromptPair, Task
from cotrace.prompts.pair import indices_by
from cotrace.prompts.task import groups
from cotrace.statistics import CONFIDENCE, Interval, Units, mean_interval, set_interval
from cotrace.text.progress_bar import Steps, stepping
from cotrace.validation import checked

Table = Float[Tensor, "example column"]


@dataclass(frozen=True)
class Runs:
    """The pairs that can be scored, and their scores."""

    pairs: tuple[PromptPair, ...]
    answers: Table
    """log p(answer | base prompt)."""
    base: Float[Tensor, "example read"]
    """Level of the metric in the base run."""
    donor_answers: Table | None
    """The same after the counterfactual prompt; None where some pair has none."""
    donor: Float[Tensor, "example read"] | None
    refused: tuple[tuple[str, str], ...]
    """(id, reason) of the pairs that cannot be scored."""


def run(model: LanguageModel, task: Task, reads: Reads, batch_tokens: int | None, step: Steps) -> Runs:
    """Run a task's prompts, without any intervention. Raises AlignmentError where no pair can be used."""
    base = _encode(model, task)
    donors = _encode(model, _on_counterfactuals(task)) if has_counterfactuals(task) else None
    both = set(base[0]) & set(donors[0]) if donors else set(base[0])
    kept = [base[0][name] for name in base[0] if name in both]
    answers, read = _scores(model, task, kept, reads, batch_tokens, partial(step, "base prompts"))
    donor_answers, donor_read = (None, None)
    if donors is not None:
        donor_pairs = [donors[0][name] for name in base[0] if name in both]
        donor_answers, donor_read = _scores(
            model, task, donor_pairs, reads, batch_tokens, partial(step, "counterfactual prompts")
        )
    refused = dict([*(donors[1] if donors else ()), *base[1]])
    own = {pair.id: pair for pair in task.pairs}
    pairs = tuple(own[encoded.pair.id] for encoded in kept)
    return Runs(pairs, answers, read, donor_answers, donor_read, tuple(refused.items()))


def has_counterfactuals(task: Task) -> bool:
    """Whether every pair has a second prompt."""
    return all(pair.counterfactual or pair.counterfactual_messages for pair in task.pairs)


def _on_counterfactuals(task: Task) -> Task:
    """The task asked of the counterfactual prompts; target, label and group stay the pair's own."""
    return replace(task, pairs=tuple(_swapped(pair) for pair in task.pairs))


def _swapped(pair: PromptPair) -> PromptPair:
    return replace(
        pair,
        base=pair.counterfactual or "",
        messages=pair.counterfactual_messages,
        spans=pair.counterfactual_spans,
        counterfactual=None,
        counterfactual_messages=(),
        counterfactual_spans={},
    )


def _encode(model: LanguageModel, task: Task) -> tuple[dict[str, EncodedPair], tuple[tuple[str, str], ...]]:
    encoding = encode_task(task, model.require_tokenizer(), paired=False, align="exact", most_tokens=model.most_tokens)
    refused = tuple((refusal.id, refusal.reason) for refusal in encoding.refused)
    return {encoded.pair.id: encoded for encoded in encoding.pairs}, refused


def _passes(pairs: Sequence[EncodedPair], packing: Packing) -> list[Layout]:
    return [layout for whole in answer_layouts(pairs, range(len(pairs)), packing) for layout in whole.passes]


@torch.no_grad()
def _scores(
    model: LanguageModel,
    task: Task,
    pairs: Sequence[EncodedPair],
    reads: Reads,
    batch_tokens: int | None,
    step: Callable[[int, int], None],
) -> tuple[Table, Float[Tensor, "example read"]]:
    """Answer scores, and what the metric reads."""
    packing = choose_packing(model, pairs, batch_tokens)
    lengths = answer_lengths(pairs)
    answers = torch.zeros(lengths.shape, dtype=model.compute_dtype)
    read: dict[int, Tensor] = {}
    passes = _passes(pairs, packing)
    for number, layout in enumerate(passes):
        step(number, len(passes))
        logits = forward(model, layout, []).to(model.compute_dtype)
        answers[list(layout.examples)] += answer_scores(logits, layout)[0]
        if reads == "logits" and packing.frequencies is None:
            read |= dict(zip(layout.examples, next_logits(logits, layout)[0], strict=True))
    if reads == "logits" and packing.frequencies is not None:
        for layout in _passes(bare_prompts(pairs), packing):
            logits = forward(model, layout, []).to(model.compute_dtype)
            read |= dict(zip(layout.examples, next_logits(logits, layout)[0], strict=True))
    answers = answers / lengths if task.score == "mean" else answers
    return answers, torch.stack([read[i] for i in range(len(pairs))]) if reads == "logits" else answers


@checked("ct.measure")
def measure(
    model: LanguageModel,
    task: Task,
    *,
    metric: str | AnyMetric | Callable[..., Any] | None = None,
    by: str | Sequence[str] | None = None,
    confidence: float = CONFIDENCE,
    batch_tokens: int | None = None,
    progress: Steps | bool | None = None,
) -> Measurement:
    """Run the task's prompts without any intervention, and say what the model does with them.

    ``by`` names fields of the pairs to break the figures down by; default ``group`` where pairs have one. The donor
    value is that of the metric after the counterfactual prompt itself. Intervals are BCa bootstrap over pairs, those
    of one ``split_group`` together (of a group metric within groups), empty below 10 of them. ``progress`` shows how
    far it is: True, False, or a function of what is done next, how many passes are done, and of how many; by default
    in terminals and notebooks. Raises CotraceError.

    Args:
        model: The model, from ``load_model`` or ``wrap``.
        task: The prompt pairs.
        metric: Name, metric or function of your own; None for the task's.
        confidence: Level of the intervals, between 0 and 1.
        batch_tokens: Most tokens in one forward pass; None for as many as suit the model.
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}: give a share between 0 and 1, such as 0.95")
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError(f"batch_tokens is {batch_tokens}: give at least 1")
    judged = metric_named(metric or task.metric)
    with stepping("measure", progress) as step:
        runs = run(model, task, judged.reads, batch_tokens, step)
    answers = Answers.of(runs.pairs, runs.answers.dtype)
    try:
        judged.check(answers)
    except InputError as error:
        raise InputError(f"metric {judged.name}: {error}") from None
    measured = _Measured(judged, runs, answers, confidence)
    fields = [by] if isinstance(by, str) else by if by is not None else ["group"] if answers.groups else []
    subgroups = [(field, indices_by(runs.pairs, field)) for field in fields]
    rows = [measured.row("", ALL, range(len(runs.pairs)))]
    rows += [measured.row(field, value, members) for field, found in subgroups for value, members in found.items()]
    return Measurement(
        model=model.name,
        task=task.name,
        metric=judged.name,
        rows=tuple(rows),
        soft=measured.soft(),
        selection_rate_ratio=measured.ratio(),
        refused=runs.refused,
        confidence=confidence,
    )


@dataclass(frozen=True)
class _Measured:
    """Everything that rows are made of."""

    metric: AnyMetric
    runs: Runs
    answers: Answers
    confidence: float

    def row(self, field: str, value: str, members: Sequence[int]) -> Row:
        """The figures of some of the pairs."""
        index = torch.tensor(list(members))
        base, base_interval, base_median = self._level(self.runs.base, index)
        donor, donor_interval, donor_median = self._level(self.runs.donor, index)
        flips, flips_interval = self._flips(index)
        return Row(
            field=field,
            value=value,
            pairs=len(members),
            base=base,
            base_interval=base_interval,
            base_median=base_median,
            donor=donor,
            donor_interval=donor_interval,
            donor_median=donor_median,
            flips=flips,
            flips_interval=flips_interval,
            selection_rate=self._selected(index),
        )

    def _level(self, table: Tensor | None, index: Tensor) -> tuple[float | None, Interval | None, float | None]:
        """Level, interval and median over some pairs; nothing where a group metric has no meaning on them."""
        if table is None:
            return None, None, None
        if isinstance(self.metric, Metric):
            levels = self.metric.reported_levels(table, self.runs.base, self.answers).double()[index]
            self._finite(levels, index)
            mean, interval = self._mean(levels, index)
            return mean, interval, float(np.median(levels.numpy()))
        try:
            self.metric.check(self.answers.take(index))
        except InputError:
            return None, None, None
        return self._number(table, index, self.answers.take(index)).item(), self._set_interval(table, index), None

    def _mean(self, levels: Tensor, index: Tensor) -> tuple[float, Interval | None]:
        weight = self.answers.weight[index].double()
        mean = ((levels * weight).sum() / weight.sum()).item()
        return mean, mean_interval(levels.numpy(), self._units(index), confidence=self.confidence)

    def _units(self, index: Tensor, strata: Tensor | None = None) -> Units:
        """Return the units of these pairs: groups that stay together in a split are resampled whole."""
        labels = groups(self.runs.pairs)
        weight = self.answers.weight[index].double().numpy()
        kinds = None if strata is None else strata.tolist()
        return Units.made(len(index), weight, [labels[i] for i in index.tolist()], kinds)

    def _number(self, table: Tensor, index: Tensor, answers: Answers) -> Tensor:
        return self.metric.reported(table[index], self.runs.base[index], answers)

    def _set_interval(self, table: Tensor, index: Tensor) -> Interval | None:
        """Resampled within the kinds of pair that the metric compares."""
        assert isinstance(self.metric, SetMetric)
        answers = self.answers.take(index)
        units = self._units(index, self.metric.strata(answers))
        return set_interval(
            lambda counts: self._number(table, index, answers.drawn(counts)), units, confidence=self.confidence
        )

    def _flips(self, index: Tensor) -> tuple[float | None, Interval | None]:
        """Share of pairs whose likeliest answer changes."""
        if self.runs.donor_answers is None or bool((self.answers.exists.sum(-1) < 2).any()):
            return None, None
        before, after = (chosen(table, self.answers) for table in (self.runs.answers, self.runs.donor_answers))
        flipped = (before != after).double()[index]
        units = replace(self._units(index), weight=np.ones(len(flipped)))
        return flipped.mean().item(), mean_interval(flipped.numpy(), units, confidence=self.confidence)

    def _selected(self, index: Tensor) -> float | None:
        """Share of pairs that choose the favourable answer."""
        favourable = self.answers.favourable[index]
        if bool((favourable < 0).any()):
            return None
        return self._mean((chosen(self.runs.answers, self.answers)[index] == favourable).double(), index)[0]

    def soft(self) -> tuple[float, float | None] | None:
        """The soft form over all pairs, where the reported one is hard."""
        if not self.metric.surrogate:
            return None
        tables = (self.runs.base, self.runs.donor)
        base, donor = (
            None if table is None else self.metric.soft_level(table, self.runs.base, self.answers).item()
            for table in tables
        )
        assert base is not None
        return base, donor

    def ratio(self) -> tuple[float | None, float | None] | None:
        """Selection-rate ratio, for group metrics about favourable answers."""
        if self.metric.name not in GROUPS or bool((self.answers.favourable < 0).any()):
            return None
        tables = (self.runs.answers, self.runs.donor_answers)
        found = [None if table is None else selection_rate_ratio(table, self.answers).item() for table in tables]
        return _defined(found[0]), _defined(found[1])

    def _finite(self, levels: Tensor, index: Tensor) -> None:
        bad = (~torch.isfinite(levels)).nonzero()
        if len(bad):
            name = self.runs.pairs[int(index[int(bad[0])])].id
            raise NonFiniteError(f"pair {name}: {self.metric.name} is not finite; log_odds has no overflow")


def _defined(ratio: float | None) -> float | None:
    return None if ratio is None or ratio != ratio else ratio  # 0 / 0: no group selects
