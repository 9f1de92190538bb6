"""The application, and the one place that turns what went wrong into one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, Token
from rich.console import Console

from cotrace import __version__
from cotrace.cli import result_commands, search_commands
from cotrace.cli.options import in_options
from cotrace.errors import CotraceError, InputError, is_out_of_memory
from cotrace.runs.config import COMMAND
from cotrace.text.escape import visible

POLITE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """The process was asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def terminated() -> Iterator[None]:
    """Raise Terminated where such a signal comes; one that is ignored (nohup) or handled already stays so."""
    ours = [one for one in POLITE if _in_main_thread() and signal.getsignal(one) == signal.SIG_DFL]
    for one in ours:
        signal.signal(one, _end)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def _in_main_thread() -> bool:
    """Only there may handlers be set."""
    return threading.current_thread() is threading.main_thread()


def _end(number: int, frame: Any) -> None:
    raise Terminated(number)


def replay(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give the options that were not typed the values of the file named by --config."""
    named = {argument.name: argument for argument in arguments}
    if "--config" not in named or not named["--config"].tokens:
        return
    from cotrace.runs.config_file import read_config

    path = named["--config"].tokens[0].value
    stored = read_config(path)
    for argument in arguments:
        field = argument.keys[0] if argument.keys else ""
        if hasattr(stored, field) and not argument.tokens:
            argument.tokens += list(_tokens(field, getattr(stored, field), path))


def check_options(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse an option of a search that does not say of which search. Raises InputError."""
    for argument in arguments:
        for token in argument.tokens if argument.name == "--option" else ():
            if len(token.keys) != 2:
                raise InputError(f"{token.keyword}: say which option of which search, as in --option.pgbct.l1 0.01")


def _tokens(field: str, value: Any, source: str) -> Iterator[Token]:
    """A stored value as the words that would have been typed for it."""
    if isinstance(value, dict):
        for keys, setting in _settings(value):
            yield Token(keyword=field, value=_word(setting), source=source, keys=keys)
    elif isinstance(value, tuple):
        if value:
            yield Token(keyword=field, value=",".join(value), source=source)
    elif value is not None:
        yield Token(keyword=field, value=str(value), source=source)


def _settings(settings: dict[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The keys and the value of every setting, however deep."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _settings(value, *above, name)
        else:
            yield (*above, name), value


def _word(setting: Any) -> str:
    return ",".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)


HELP = """Find which components of a language model jointly drive a metric.

Start with `cotrace demo`. Then: `cotrace trace --model MODEL --task TASK`."""

COMMANDS = (
    search_commands.demo,
    search_commands.trace,
    search_commands.compare,
    search_commands.sweep,
    search_commands.measure,
    search_commands.check,
    search_commands.resume,
    search_commands.reproduce,
    result_commands.evaluate,
    result_commands.explain,
    result_commands.transfer,
    result_commands.report,
    result_commands.figure,
    result_commands.generate,
    result_commands.edit,
    result_commands.export,
    result_commands.diff,
    result_commands.verify,
    result_commands.cite,
    result_commands.schema,
)


def completion(shell: Literal["bash", "zsh", "fish", "powershell"]) -> None:
    """Print the completion script of a shell: write it to where the shell looks, or source it in its start file.

    Parameters
    ----------
    shell
        bash, zsh, fish or powershell.
    """
    from cotrace.cli.console import Screen

    Screen().raw(build().generate_completion(shell=shell) + "\n")


def build() -> App:
    """The app with all commands."""
    app = App(
        name="cotrace",
        help=HELP,
        version=__version__,
        config=(replay, check_options),
        default_parameter=Parameter(negative=()),
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for command in COMMANDS:
        app.command(command)
    app.command(result_commands.open_report, name="open")
    app.command(search_commands.tasks())
    app.command(completion)
    return app


OK, OURS, USERS, INTERRUPTED, UNHEARD = 0, 1, 2, 130, 141
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""There is no room: on the disk, in the user's share of it, or in the largest file allowed."""
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG, errno.EMFILE, errno.ELOOP)
SURROUNDINGS = (*FULL, *REFUSED)
"""Errors of the machine that the user can mend."""


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
    """Return one line that explains the error, and the exit code."""
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
    """Return the machine's refusal with its remedy."""
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
