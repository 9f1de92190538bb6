"""The one hierarchy of errors: each is one line that names the thing, the reason and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "defaultcpuallocator")
"""How the allocators of torch's devices say that memory has run out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, as Python or torch say it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


class CotraceError(Exception):
    """Base of every error that the user can mend; the command line prints it as one line and exits with 2."""

    exit_code = 2

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class InputError(CotraceError):
    """An argument or a file is not what it should be."""


class UnknownName(InputError):
    """A model, task, site, search or metric of that name is not known."""


class ModelError(CotraceError):
    """The model cannot be loaded, or is not a decoder that can be traced."""


class UnsupportedSite(CotraceError):
    """The model has no such site, or not in the way that is asked for."""


class AlignmentError(CotraceError):
    """A pair's prompts or answers do not line up by token."""


class NonFiniteError(CotraceError):
    """A score, effect or gradient is not a finite number."""


class DegenerateError(CotraceError):
    """The question has no answer on this data: nothing to normalise by, nothing to search."""


class OutputExists(CotraceError):
    """The output folder already holds something that would be overwritten."""


class DamagedRun(InputError):
    """A file of a run is not what the run wrote: cut short, changed, or of another run."""


class NotReproduced(CotraceError):
    """Effects of a run, computed again, differ by more than rounding."""


class RunBusy(CotraceError):
    """Another process is writing the run."""


class WorkersError(CotraceError):
    """Workers cannot be had, are not alike, or were lost too often."""


def unknown(kind: str, name: object, options: Iterable[str], meant: str | None = None) -> UnknownName:
    """The error for a name that is not known: with the one that is ``meant``, or a close match, and the whole list.

    Args:
        kind: The kind of thing, such as ``search``.
        name: The name that was given.
        options: All known names.
        meant: The name that is meant; None for a close match.
    """
    listed = sorted(options)
    close = [meant] if meant else get_close_matches(str(name), listed, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UnknownName(f"unknown {kind} {name!r}: {hint}choose one of {', '.join(listed)}")
