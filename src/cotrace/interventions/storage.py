"""Storage of values between passes, in memory or in mapped files."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotrace.errors import InputError

Keep = Callable[[Tensor, tuple[int, ...]], Tensor]
"""(a tensor of the type and device wanted, shape) -> room for a tensor of that shape."""
NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""Names of the number types in safetensors."""
HEADER_STEP = 8
LONGEST_HEADER = 99_000_000
"""Bytes; readers of safetensors refuse 100 MB."""
DISK_SHARE = 0.9
"""Share of the free disk that may be taken."""


class NoRoom(Exception):
    """Error: neither memory nor disk has room; the values must be computed when they are needed."""


def in_memory(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Room in memory, without a bound."""
    return like.new_empty(shape)


class Storage:
    """Room within a budget of bytes; what does not fit goes to disk, and where that is full too there is NoRoom."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used: Counter[str] = Counter()
        """Bytes in ``memory`` and on ``disk``."""

    def __call__(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Raises NoRoom."""
        count = math.prod(shape) * like.element_size()
        if self.used["memory"] + count <= self.budget:
            self.used["memory"] += count
            return in_memory(like, shape)
        if count > DISK_SHARE * free_disk():
            raise NoRoom
        self.used["disk"] += count
        return mapped(like.dtype, shape)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Reserve all room that is asked for inside, or none: after an error it is given back."""
        before = self.used.copy()
        try:
            yield
        except BaseException:
            self.used = before
            raise


def free_disk() -> int:
    """Free bytes where temporary files go."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def mapped(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Room in a safetensors file that is mapped into memory. Raises NoRoom.

    The file has no name any more when this returns (where the system allows that), so that nothing is left behind
    however the process ends.
    """
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryDirectory(prefix="cotrace-", ignore_cleanup_errors=True) as folder:
        return mapped_file(Path(folder) / "values.safetensors", dtype, {"values": shape})["values"]


def mapped_file(
    path: Path, dtype: torch.dtype, shapes: Mapping[str, tuple[int, ...]], about: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Return room for named tensors in a new safetensors file, mapped into memory. Raises NoRoom.

    ``about`` is text that the file says of itself.
    """
    ends = list(accumulate((math.prod(shape) * dtype.itemsize for shape in shapes.values()), initial=0))
    header = _header(dtype, shapes, ends, about)
    _reserve(path, header, ends[-1])
    storage = torch.UntypedStorage.from_file(str(path), shared=True, nbytes=len(header) + ends[-1])
    assert isinstance(storage, torch.UntypedStorage), "that is what from_file gives"
    starts = [(len(header) + end) // dtype.itemsize for end in ends]
    like = torch.empty(0, dtype=dtype)
    return {
        name: like.new_empty(0).set_(storage, start, shape, [math.prod(shape[i + 1 :]) for i in range(len(shape))])
        for start, (name, shape) in zip(starts, shapes.items(), strict=False)
    }


def _header(
    dtype: torch.dtype,
    shapes: Mapping[str, tuple[int, ...]],
    ends: Sequence[int],
    about: Mapping[str, str] | None,
) -> bytes:
    """Length and description of the tensors in the file, filled with spaces so that the numbers are aligned."""
    table: dict[str, Any] = {} if about is None else {"__metadata__": dict(about)}
    for (name, shape), offsets in zip(shapes.items(), pairwise(ends), strict=True):
        table[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": list(offsets)}
    text = json.dumps(table).encode()
    if len(text) > LONGEST_HEADER:
        raise InputError(
            f"{len(shapes):,} tensors are more than one safetensors file describes: name fewer pairs or components"
        )
    text += b" " * (-len(text) % HEADER_STEP)
    return len(text).to_bytes(HEADER_STEP, "little") + text


def _reserve(path: Path, header: bytes, count: int) -> None:
    """Write the header and claim the blocks behind it: a full disk must be found now, not at some later write."""
    try:
        with path.open("wb") as file:
            file.write(header)
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, len(header) + count)
            else:
                file.truncate(len(header) + count)
    except OSError as error:
        raise NoRoom from error
