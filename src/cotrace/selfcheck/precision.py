"""Half precision against float32: the same weights, run in float32 for one short prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cotrace.selfcheck.probe import Probe, deviation
from cotrace.selfcheck.report import Finding

HALF = (torch.bfloat16, torch.float16)
ALLOWED = {torch.bfloat16: 0.2, torch.float16: 0.1}
"""Relative to the largest logit: what rounding alone does to deep models; above it the numbers are not the model's."""
MOST_BYTES = 2**33
NAME = "half precision against float32"


def precision_findings(probe: Probe) -> Iterator[Finding]:
    """The float32 spot check of a bf16 or fp16 model; nothing for other types."""
    model = probe.model
    if model.dtype not in HALF:
        return
    parameters = list(model.module.parameters())
    if any(parameter.is_meta for parameter in parameters):
        yield Finding(NAME, None, 0.0, note="parts of the model are offloaded")
    elif sum(4 * parameter.numel() for parameter in parameters) > MOST_BYTES:
        yield Finding(NAME, None, 0.0, note="the model in float32 would take more than 8 GiB")
    else:
        half = probe.plain
        with in_float32(model.module):
            whole = probe.itself(probe.base)
        yield Finding(NAME, deviation(half, whole), ALLOWED[model.dtype])


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """The module's half-precision parameters and buffers in float32; the very same tensors are back afterwards."""
    held = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.dtype in HALF]
    before = [tensor.data for tensor in held]
    try:
        for tensor in held:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(held, before, strict=True):
            tensor.data = data
