"""One run directory: its configuration and its results on disk."""

from cotrace.runs.config import RunConfig
from cotrace.runs.directory import RunDirectory

__all__ = ["RunConfig", "RunDirectory"]
