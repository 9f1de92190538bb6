"""Whether the code that comes with a model may run: asked for by whoever types the command, never by a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TRUSTED: ContextVar[bool] = ContextVar("TRUSTED", default=False)


@contextmanager
def trusting(asked: bool) -> Iterator[None]:
    """Models that are loaded inside may bring code of their own, where that is asked for."""
    before = TRUSTED.set(asked)
    try:
        yield
    finally:
        TRUSTED.reset(before)
