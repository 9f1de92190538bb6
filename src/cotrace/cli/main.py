"""The one place that turns what went wrong into one line and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from cyclopts import CycloptsError
from rich.console import Console

from cotrace.cli.app import build
from cotrace.errors import CotraceError

OK, OURS, USERS, INTERRUPTED = 0, 1, 2, 130


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns 0, 2 for the user's mistakes, 1 for ours, 130 after Ctrl-C."""
    debug = "--debug" in arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "--quiet" not in arguments:
            warnings.filterwarnings("default", category=UserWarning)
        warnings.showwarning = _show_warning
        try:
            build()(list(arguments))
        except (CotraceError, CycloptsError) as error:
            return _fail(error, str(error), USERS, debug)
        except KeyboardInterrupt as error:
            return _fail(error, "interrupted; nothing was written", INTERRUPTED, debug)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its reader has gone: flush into nothing
            return OK
        except Exception as error:  # the last resort: no traceback for the user
            return _fail(error, _crash(error), OURS, debug)
    return OK


def _fail(error: BaseException, line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    _say(line)
    return code


def _crash(error: Exception) -> str:
    """One line for an error of ours; the traceback goes to a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="cotrace-error-", suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        traceback.print_exception(error, file=log)
    what = traceback.format_exception_only(error)[-1]
    return f"unexpected {what.strip()} (please report it with the file {Path(log.name)}; --debug shows it here)"


def _say(line: str) -> None:
    """One line on stderr, however long."""
    print(f"cotrace: {' '.join(line.split())}", file=sys.stderr)  # noqa: T201


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    Console(stderr=True, highlight=False).print(f"cotrace: warning: {message}", markup=False, soft_wrap=True)
