"""GGUF files as the source of weights: read as floating point, refused in one line where that cannot be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from struct import error as StructError  # noqa: N812
from typing import Any

from cotrace.errors import InputError, ModelError

MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate")
UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, StructError)
"""What parsing raises, among them for tensors of other shapes than the architecture's (RuntimeError)."""


def gguf_options(folder: str | Path, gguf_file: str | None, quantise: str | None) -> dict[str, Any]:
    """What loading is told of a GGUF file in a local folder; nothing where none is named. InputError, ModelError."""
    if gguf_file is None:
        return {}
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"gguf_file needs {' and '.join(missing)}: pip install 'cotrace[gguf]', or give a model in safetensors"
        )
    if quantise is not None:
        raise InputError(
            f"gguf_file is read as floating point, and quantise={quantise} keeps weights in few bits: give one of the "
            "two"
        )
    _check(Path(folder), gguf_file)
    return {"gguf_file": gguf_file}


def _check(folder: Path, name: str) -> None:
    """Raise ModelError where the file is not there, or no GGUF."""
    path = folder / name
    if not path.is_file():
        there = sorted(one.name for one in folder.glob("*.gguf")) if folder.is_dir() else []
        have = f"it holds {', '.join(there)}" if there else "it holds none; give model the folder that the file is in"
        raise ModelError(f"there is no GGUF file {name} in the folder {folder}: {have}")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{path} is no GGUF file, which begins with the letters GGUF: give one that is")


@contextmanager
def reading(name: str | None) -> Iterator[None]:
    """Around whatever parses a GGUF file: what goes wrong becomes one ModelError. Nothing without a name."""
    try:
        yield
    except UNREADABLE as error:
        if name is None:
            raise
        what = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        if "architecture" in what:
            raise ModelError(
                f"cannot read {name}: {what} (it is transformers that reads GGUF files). Give the same model in "
                "safetensors"
            ) from error
        raise ModelError(
            f"cannot read {name}: it is damaged, cut short or not what transformers expects ({what}); fetch it again"
        ) from error


def stored_types(path: Path) -> str:
    """How many tensors a file keeps in which type, in words: ``Q4_1 (210), F32 (61)``; loaded, all are floats."""
    from gguf import GGUFReader

    counts = Counter(tensor.tensor_type.name for tensor in GGUFReader(str(path)).tensors)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())
