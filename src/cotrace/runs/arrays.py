"""Safetensors files of a run as numpy arrays: what they cannot hold is a ValueError, whatever the library raises."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load

NO_SUCH_TYPE = (KeyError, TypeError, AttributeError)
"""What the library raises for number types that numpy lacks, such as bfloat16."""


def arrays_of(content: bytes) -> dict[str, Any]:
    """Name -> array. Raises ValueError."""
    try:
        return dict(load(content))
    except (SafetensorError, *NO_SUCH_TYPE) as error:
        raise ValueError(f"it holds no arrays that can be read: {error}") from None
