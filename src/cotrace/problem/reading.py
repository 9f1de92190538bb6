"""From logits to what a metric reads: log-probabilities of answers, or the logits at the last prompt position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cotrace.batches import EncodedPair, Layout

Logits = Float[Tensor, "mask read token"]


def answer_lengths(pairs: Sequence[EncodedPair], columns: int | None = None) -> Int[Tensor, "example answer"]:
    """Tokens of each answer, 1 in the columns that an example leaves empty."""
    columns = columns or max(len(pair.answers) for pair in pairs)
    rows = [[len(a) for a in pair.answers] + [1] * (columns - len(pair.answers)) for pair in pairs]
    return torch.tensor(rows)


def answer_scores(logits: Logits, layout: Layout) -> Float[Tensor, "mask example answer"]:
    """log p of each scored token, summed over its answer."""
    normaliser = torch.logsumexp(logits, -1)
    read, token = layout.scored_read.to(logits.device), layout.scored_token.to(logits.device)
    log_p = (logits[:, read, token] - normaliser[:, read]).cpu()
    cells = log_p.new_zeros(len(logits), len(layout.examples) * layout.answers)
    return cells.index_add(1, layout.scored_cell, log_p).reshape(len(logits), -1, layout.answers)


def next_logits(logits: Logits, layout: Layout) -> Float[Tensor, "mask example token"]:
    """The logits at each example's last prompt position, from which the first token of its first answer is read."""
    example = (layout.scored_cell // layout.answers).numpy()
    first = torch.from_numpy(np.unique(example, return_index=True)[1])
    return logits[:, layout.scored_read[first].to(logits.device)].cpu()
