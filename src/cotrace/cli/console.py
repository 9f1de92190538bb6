"""Messages on stdout and stderr, and the files written beside a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cotrace.errors import InputError
from cotrace.runs.directory import write_atomically
from cotrace.text.escape import visible, visible_json
from cotrace.text.files import new_file

if TYPE_CHECKING:
    from cotrace.workers import Workers

PLAIN_WIDTH = 120
"""Columns where the output is not a terminal."""


def console(stderr: bool = False) -> Terminal:
    """A console that keeps to NO_COLOR and to plain text where it is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Terminal(file=stream, width=width, highlight=False)


class Terminal(Console):
    """A console that says when its reader has gone, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Called while the BrokenPipeError is handled: raise it again."""
        self.quiet = True
        raise  # noqa: PLE0704


class Screen:
    """The results go to stdout, progress and warnings to stderr."""

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        """With ``as_json`` stdout holds one JSON object and nothing else."""
        self.quiet, self.as_json = quiet, as_json
        self.out, self.progress = console(), console(stderr=True)

    def say(self, *what: Any, style: str | None = None) -> None:
        """Text or a table; text is shown as it is."""
        if not self.quiet and not self.as_json:
            shown = [visible(item) if isinstance(item, str) else item for item in what]
            self.out.print(*shown, style=style, markup=False, soft_wrap=all(isinstance(item, str) for item in what))

    def raw(self, text: str) -> None:
        """Text for other programs on stdout as UTF-8, character by character, also where quiet is asked for."""
        stream = self.out.file
        stream.flush()
        if (binary := getattr(stream, "buffer", None)) is None:
            stream.write(text)
        else:
            binary.write(text.encode())
            binary.flush()

    def data(self, command: str, make: Callable[[], Any], *, dry_run: bool = False) -> None:
        """The one JSON object of a command, where it is asked for; it keeps to the documented form."""
        if self.as_json:
            from cotrace.cli.replies import reply  # loads what no other output needs

            plain = reply(command, make(), dry_run=dry_run)
            self.raw(visible_json(json.dumps(plain, ensure_ascii=False, allow_nan=False)) + "\n")

    def title(self, text: str) -> None:
        """A heading with a line above."""
        self.say("")
        self.say(text, style="bold")

    def note_workers(self, workers: Workers | None) -> None:
        """Note who runs the batches, and the address of their dashboard, if there is one."""
        if workers is not None:
            where = f"; dashboard at {workers.cluster.dashboard}" if workers.cluster.dashboard else ""
            self.note(f"workers: {workers.count} on {workers.cluster.nodes} node(s) of Ray{where}")

    def note(self, text: str) -> None:
        """Print a line of progress on stderr."""
        if not self.quiet:
            self.progress.print(visible(text), markup=False, style="dim", soft_wrap=True)


@contextmanager
def own_threads() -> Iterator[None]:
    """A run may set the number of threads; afterwards it is as before."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quiet_libraries() -> None:
    """Silence the libraries' progress bars and notes: the screen is ours, and an error is one line."""
    import logging

    from transformers.utils import logging as own

    own.set_verbosity_error()
    own.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it notes every try
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it notes every cast of 8-bit weights' inputs


STDOUT = "-"


def check_figures(path: str | None) -> None:
    """Raise OutputExists or InputError where no new file can be at the path, before anything is computed.

    What is there and is no file, such as a pipe, may be written to.
    """
    if path is None or path == STDOUT:
        return
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; name a file for the figures")
    if Path(path).is_file() or not Path(path).exists():
        new_file(path, "--json")


def write_figures(path: str | None, data: Any, screen: Screen, command: str = "") -> None:
    """Write the figures of a command where they were asked for."""
    if path == STDOUT:
        screen.data(command, lambda: data)
    elif path is not None:
        from cotrace.cli.replies import reply

        _write(Path(path).resolve(), (json.dumps(reply(command, data) if command else data, indent=1) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a pipe or the like is written to as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    else:
        write_atomically(path, content)
