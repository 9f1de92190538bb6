"""Screen: what is said on stdout, and nothing where quiet is asked for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cotrace.visible import visible, visible_json

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
        """Who runs the batches, and where their dashboard is, if there is one."""
        if workers is not None:
            where = f"; dashboard at {workers.cluster.dashboard}" if workers.cluster.dashboard else ""
            self.note(f"workers: {workers.count} on {workers.cluster.nodes} node(s) of Ray{where}")

    def note(self, text: str) -> None:
        """A line about what goes on, on stderr."""
        if not self.quiet:
            self.progress.print(visible(text), markup=False, style="dim", soft_wrap=True)
