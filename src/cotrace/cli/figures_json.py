"""The figures of ``measure`` and ``check`` as JSON: in a file, or on stdout for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cotrace.cli.screen import Screen
from cotrace.errors import InputError

STDOUT = "-"


def check_figures(path: str | None) -> None:
    """Raise InputError where the path is a folder, before anything is computed."""
    if path not in (None, STDOUT) and Path(str(path)).is_dir():
        raise InputError(f"{path} is a folder; name a file for the figures")


def write_figures(path: str | None, data: Any, screen: Screen) -> None:
    """Write the figures where they were asked for."""
    if path == STDOUT:
        screen.data(lambda: data)
    elif path is not None:
        Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
