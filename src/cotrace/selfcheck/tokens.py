"""The tokenizer's and the task's part: padding sides must not matter, prompts and donors must line up."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cotrace.batches import Align, Encoding, encode_task
from cotrace.donors import DonorSource, Noise, donor_source
from cotrace.errors import CotraceError
from cotrace.models import LanguageModel
from cotrace.models.language_model import evaluating
from cotrace.prompts import Task
from cotrace.selfcheck.probe import Probe, deviation
from cotrace.selfcheck.report import Finding

SIDES = "left- and right-padded rows agree"
MOST_REFUSED = 0.05
"""Above this share of refused pairs a run speaks for too few of them."""


def tokenizer_findings(probe: Probe, tolerance: float) -> Iterator[Finding]:
    """The model's own padded batches, on either side, against the engine's unpadded run."""
    tokenizer = probe.model.tokenizer
    if tokenizer is None or not _can_pad(tokenizer):
        yield Finding(SIDES, None, tolerance, note="no tokenizer" if tokenizer is None else "no padding token")
        return
    errors = {side: _padded_error(probe, tokenizer, side) for side in ("left", "right")}
    worst = max(errors, key=errors.__getitem__)
    yield Finding(SIDES, errors[worst], tolerance, where=f"padding on the {worst}")


def _can_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.pad_token_id is not None or tokenizer.eos_token_id is not None


@torch.no_grad()
def _padded_error(probe: Probe, tokenizer: PreTrainedTokenizerBase, side: str) -> float:
    """How far the base prompt's logits are off when the tokenizer pads it to the longer prompt on this side."""
    padder = copy.deepcopy(tokenizer)
    padder.padding_side = side
    if padder.pad_token_id is None:
        padder.pad_token = padder.eos_token
    batch = padder.pad({"input_ids": [list(probe.base), list(probe.longer)]}, return_tensors="pt")
    real = batch["attention_mask"][0].bool()
    with evaluating(probe.model.module):
        logits = probe.model.module(**_inputs(probe.model, batch), use_cache=False).logits[0]
    return deviation(logits[real.to(logits.device)], probe.plain)


def _inputs(model: LanguageModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A padded batch with positions that count real tokens only."""
    mask = batch["attention_mask"]
    given = {"input_ids": batch["input_ids"], "attention_mask": mask}
    if model.takes("position_ids"):
        given["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return {name: value.to(model.device) for name, value in given.items()}


def task_findings(
    model: LanguageModel, task: Task, donors: str | DonorSource | None = None, align: Align = "exact"
) -> Iterator[Finding]:
    """Whether the task's pairs can be used with this model and these donors (default: the task's own), so aligned."""
    try:
        encoding = _encoded(model, task, donor_source(donors or task.donors), align)
    except CotraceError as error:
        yield Finding("pairs line up by token", None, MOST_REFUSED, where=task.name, note=str(error), broken=True)
        return
    share = len(encoding.refused) / len(task)
    note = _first(encoding.refused)
    yield Finding("pairs line up by token (share refused)", share, MOST_REFUSED, where=task.name, note=note)


def _encoded(model: LanguageModel, task: Task, source: DonorSource, align: Align) -> Encoding:
    """The pairs as a run would have them, with the prompts and roles that its donors need."""
    roles = [source.role] if isinstance(source, Noise) else []
    tokenizer, most = model.require_tokenizer(), model.most_tokens
    encoding = encode_task(task, tokenizer, paired=source.paired, align=align, roles=roles, most_tokens=most)
    return source.settled(encoding, {pair.pair.id for pair in encoding.pairs})[1]


def _first(refused: Sequence[object]) -> str:
    return f"the first: {getattr(refused[0], 'reason', refused[0])}" if refused else ""
