"""Plain scoring: the answers of a task under whatever the model is at the moment, hooks and edited weights included."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import answer_layouts, encode_task
from cotrace.errors import InputError, NonFiniteError
from cotrace.interventions import forward
from cotrace.metrics import Answers
from cotrace.models import LanguageModel
from cotrace.problem.packing import choose_packing
from cotrace.problem.reading import answer_lengths, answer_scores
from cotrace.prompts import Task
from cotrace.prompts.split import groups


class ScoredTask:
    """A task's pairs laid out once, to be scored as often as asked; ``ids`` takes some of them, in file order.

    ``clusters`` says what each id stays together with, where it is not the pair's ``split_group``.
    """

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        ids: Collection[str] | None = None,
        batch_tokens: int | None = None,
        clusters: Mapping[str, str] | None = None,
    ) -> None:
        encoding = encode_task(
            task, model.require_tokenizer(), paired=False, align="exact", most_tokens=model.most_tokens
        )
        self.pairs = [pair for pair in encoding.pairs if ids is None or pair.pair.id in ids]
        if not self.pairs:
            raise InputError(f"task {task.name}: none of these pairs can be scored")
        self.task, self.model, self._clusters = task, model, clusters or {}
        self.answers = Answers.of([encoded.pair for encoded in self.pairs], model.compute_dtype)
        self._packing = choose_packing(model, self.pairs, batch_tokens)
        self._layouts = answer_layouts(self.pairs, range(len(self.pairs)), self._packing)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def clusters(self) -> list[str]:
        """What each pair stays together with in a split: the units that intervals resample."""
        own = groups([encoded.pair for encoded in self.pairs])
        return [self._clusters.get(pair.pair.id, label) for pair, label in zip(self.pairs, own, strict=True)]

    @property
    def ids(self) -> list[str]:
        """Ids of the pairs, in file order."""
        return [encoded.pair.id for encoded in self.pairs]

    @torch.no_grad()
    def scores(self, model: LanguageModel | None = None) -> Float[Tensor, "example answer"]:
        """log p(answer | prompt) of every answer, now; by another model of the same tokenizer where given.

        Raises NonFiniteError naming the pair."""
        model = model or self.model
        lengths = answer_lengths(self.pairs)
        table = torch.zeros(lengths.shape, dtype=model.compute_dtype)
        for layout in (layout for whole in self._layouts for layout in whole.passes):
            logits = forward(model, layout, []).to(model.compute_dtype)
            table[list(layout.examples)] += answer_scores(logits, layout)[0]
        bad = ~torch.isfinite(table).all(-1)
        if bool(bad.any()):
            pair = self.pairs[int(bad.nonzero()[0])].pair
            raise NonFiniteError(f"pair {pair.id}: a score is not finite; try dtype='float32' or a milder edit")
        return table / lengths if self.task.score == "mean" else table
