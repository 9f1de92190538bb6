"""The figures of ``measure`` and ``check`` as JSON: in a file, or on stdout for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cotrace.cli.replies import reply
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.new_file import new_file
from cotrace.runs.directory import write_atomically

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


def write_figures(path: str | None, data: Any, screen: Screen, command: str) -> None:
    """Write the figures of a command where they were asked for."""
    if path == STDOUT:
        screen.data(command, lambda: data)
    elif path is not None:
        _write(Path(path).resolve(), (json.dumps(reply(command, data), indent=1) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; but what is no file, such as a pipe, is written to and stays what it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    else:
        write_atomically(path, content)
