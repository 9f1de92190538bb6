"""Storage of values between passes, in memory or in mapped files; and the keys and values of shared prefixes."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from cotrace.batches import EncodedPair, Layout, Packing, prefix_layouts
from cotrace.errors import InputError
from cotrace.interventions.forward import forward
from cotrace.models import LanguageModel

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


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of every kept token, for each layer, token by token without padding."""

    keys: Sequence[Float[Tensor, "token kv_head d_head"]]
    values: Sequence[Float[Tensor, "token kv_head d_value"]]
    devices: Sequence[torch.device]
    """Device of each layer; the values may be kept elsewhere."""
    _last: list[tuple[Layout, int, DynamicCache]] = field(default_factory=list, repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that they take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def for_layout(self, layout: Layout, copies: int) -> DynamicCache:
        """A cache for forward passes over a layout, each copy of the rows with the same prefix.

        The one made last is kept: masks and steps come to one layout again and again, and passes only read it.
        """
        if self._last and self._last[0][:2] == (layout, copies):
            return self._last[0][2]
        self._last.clear()
        self._last.append((layout, copies, self._made(layout, copies)))
        return self._last[0][2]

    def _made(self, layout: Layout, copies: int) -> DynamicCache:
        cache = KeptCache()
        index = layout.cached.clamp(min=0)
        for i, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            device = self.devices[i]
            cache.update(_rows(keys, index, copies).to(device), _rows(values, index, copies).to(device), i)
        cache.closed = True
        return cache


class DelayedPrefixes:
    """Prefixes whose keys and values are computed when they are first asked for; where no run is, never."""

    def __init__(self, make: Callable[[], PrefixCache | None]) -> None:
        self._make, self._made = make, list[PrefixCache | None]()

    def for_layout(self, layout: Layout, copies: int) -> DynamicCache | None:
        """Return the prefix as a ``PrefixCache`` does; None where there are no prefixes."""
        if not self._made:
            self._made.append(self._make())
        made = self._made[0]
        return None if made is None else made.for_layout(layout, copies)


class KeptCache(DynamicCache):  # type: ignore[misc]
    """A cache that takes prefixes and then only gives: a layer may run again in the backward pass and finds the same.

    It does not hold the keys and values of the rows either, which would live until the pass is over.
    """

    closed = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and rows together."""
        if not self.closed:
            found: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            return found
        kept = self.layers[layer_idx]
        return torch.cat([kept.keys, key_states], 2), torch.cat([kept.values, value_states], 2)


def _rows(kept: Tensor, index: Tensor, copies: int) -> Tensor:
    rows = kept[index.to(kept.device)].transpose(1, 2)
    return rows.repeat(copies, 1, 1, 1)


@torch.no_grad()
def keep_prefixes(
    model: LanguageModel,
    pairs: Sequence[EncodedPair],
    packing: Packing,
    keep: Keep = in_memory,
    layouts: Sequence[Layout] | None = None,
) -> PrefixCache | None:
    """Run the pairs' prefixes and keep their keys and values; None where there are none. Raises NoRoom.

    ``layouts``: the batches of those runs, where they were cut for more pairs than these.
    """
    total = sum(pair.prefix for pair in pairs)
    stores: list[tuple[Tensor, Tensor]] = []
    devices: list[torch.device] = []
    for layout in prefix_layouts(pairs, packing) if layouts is None else layouts:
        cache = DynamicCache()
        forward(model, layout, [], cache=cache)
        if not stores:
            stores = [(_empty(layer.keys, total, keep), _empty(layer.values, total, keep)) for layer in cache.layers]
            devices = [layer.keys.device for layer in cache.layers]
        source = layout.source.flatten()
        real = torch.nonzero(source >= 0).flatten()
        for (keys, values), layer in zip(stores, cache.layers, strict=True):
            for store, found in ((keys, layer.keys), (values, layer.values)):
                flat = found.transpose(1, 2).flatten(0, 1)
                store[source[real].to(store.device)] = flat[real.to(flat.device)].to(store.device)
    if not stores:
        return None
    return PrefixCache([pair[0] for pair in stores], [pair[1] for pair in stores], devices)


def _empty(like: Tensor, tokens: int, keep: Keep) -> Tensor:
    """[row, head, pos, d] -> room for [token, head, d]."""
    return keep(like, (tokens, like.shape[1], like.shape[3]))
