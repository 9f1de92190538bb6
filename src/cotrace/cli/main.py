"""The one place that turns what went wrong into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cyclopts import CycloptsError
from rich.console import Console

from cotrace.cli.app import build
from cotrace.cli.options import in_options
from cotrace.cli.signals import Terminated, terminated
from cotrace.errors import CotraceError, is_out_of_memory
from cotrace.runs.command import COMMAND
from cotrace.visible import visible

OK, OURS, USERS, INTERRUPTED, UNHEARD = 0, 1, 2, 130, 141
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""There is no room: on the disk, in the user's share of it, or in the largest file allowed."""
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.EMFILE, errno.ELOOP)
SURROUNDINGS = (*FULL, *REFUSED)
"""What the machine refuses and the user can mend."""


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns 0, 2 for the user's mistakes, 1 for ours, 130 after Ctrl-C, 143 after SIGTERM."""
    debug = "--debug" in arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "--quiet" not in arguments:
            warnings.filterwarnings("default", category=UserWarning)
        warnings.showwarning = _show_warning
        try:
            with terminated(), _said(arguments):
                build()(spelled(arguments))
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its reader has gone: flush into nothing
            if notes := getattr(error, "__notes__", ()):
                _say("; ".join(["nobody reads the output any more", *notes]))
                return UNHEARD
        except (KeyboardInterrupt, Terminated, Exception) as error:
            line, code = _explained(error)
            if debug:
                traceback.print_exception(error)
            _say("; ".join([line, *getattr(error, "__notes__", ())]))
            return code
    return OK


def spelled(arguments: Sequence[str]) -> list[str]:
    """The words typed; ``--json`` without a file, where one may be named, means stdout."""
    found = list(arguments)
    if found[:1] in (["measure"], ["check"]):
        for i, word in enumerate(found):
            if word == "--json" and (i + 1 == len(found) or found[i + 1].startswith("-")):
                found[i : i + 2] = ["--json=-", *(one for one in found[i + 1 : i + 2] if one != "-")]
    return found


def _explained(error: BaseException) -> tuple[str, int]:
    """What went wrong in one line, and the exit code."""
    if isinstance(error, CotraceError):
        return in_options(str(error)), USERS
    if isinstance(error, CycloptsError):
        return str(error), USERS
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        written = "" if getattr(error, "__notes__", ()) else "; nothing was written"
        return f"interrupted{written}", getattr(error, "exit_code", INTERRUPTED)
    if isinstance(error, OSError) and error.errno in SURROUNDINGS:
        return _refused(error), USERS
    if is_out_of_memory(error):
        return "the memory is full: give --batch-tokens a smaller number, or use a smaller model or dtype", USERS
    return _crash(error), OURS


def _refused(error: OSError) -> str:
    """What the machine refused, with the remedy."""
    where = f"{error.filename}: " if error.filename else ""
    remedy = "make room there" if error.errno in FULL else "mend that"
    return f"cannot write or read {where}{error.strerror}: {remedy}"


@contextmanager
def _said(arguments: Sequence[str]) -> Iterator[None]:
    """The words that were typed, for the record of a run."""
    before = COMMAND.set(("cotrace", *arguments))
    try:
        yield
    finally:
        COMMAND.reset(before)


def _crash(error: BaseException) -> str:
    """One line for an error of ours; the traceback goes to a file, where there is room for one."""
    what = f"unexpected {type(error).__name__}: {error}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="cotrace-error-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            traceback.print_exception(error, file=log)
    except OSError:
        return f"{what} (please report it with what --debug shows)"
    return f"{what} (please report it with the file {Path(log.name)}; --debug shows it here)"


def _say(line: str) -> None:
    """One line on stderr, however long."""
    print(f"cotrace: {visible(' '.join(line.split()))}", file=sys.stderr)  # noqa: T201


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    line = visible(in_options(" ".join(str(message).split())))
    Console(stderr=True, highlight=False).print(f"cotrace: warning: {line}", markup=False, soft_wrap=True)
