"""The command line that is being run, for the record; a module of its own, so that starting loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

COMMAND: ContextVar[Sequence[str]] = ContextVar("COMMAND", default=())
"""Its words; none where a run is made from Python."""
