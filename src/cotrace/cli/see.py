"""``cotrace report`` and ``cotrace figure``: a stored run looked at, nothing computed by a model."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from cotrace import report as reports
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.new_file import new_file
from cotrace.run_folder.pictures import REDACTED, REPORT, material_of
from cotrace.runs.directory import write_atomically
from cotrace.runs.manifest import add_files, holds
from cotrace.runs.stored import StoredRun


def report(
    run: str, *, search: str | None, redact: bool, language: str, out: str | None, quiet: bool, as_json: bool = False
) -> None:
    """Write the report into the run's folder, or to a new file. Raises CotraceError."""
    path = None if out is None else new_file(out)
    content = reports.report_html(material_of(run, search=search, redact=redact, language=language))
    if path is None:
        path = Path(run) / (REDACTED if redact else REPORT)
        add_files(path.parent, {path.name: content})
    else:
        write_atomically(path, content)
    _said(Screen(quiet, as_json), "report", path, content, f" ({len(content) / 2**20:.1f} MiB)")


def figure(
    run: str,
    *,
    kind: str,
    form: str,
    k: int | None,
    search: str | None,
    width: str,
    out: str | None,
    quiet: bool,
    as_json: bool = False,
) -> None:
    """Draw one figure and write it to a new file. Raises CotraceError."""
    path = new_file(out or f"{kind}.{form}")
    if out and path.suffix != f".{form}":
        raise InputError(f"{path} does not end in .{form}: name the file after its format, or give --format")
    content = reports.drawn(material_of(run, search=search), kind, form, k=k, width=width)
    write_atomically(path, content)
    _said(Screen(quiet, as_json), "figure", path, content)


def _said(screen: Screen, command: str, path: Path, content: bytes, size: str = "") -> None:
    screen.say(f"Written to {path}{size}")
    screen.data(command, lambda: {"written": str(path), "bytes": len(content)})


def open_report(run: str, *, quiet: bool, as_json: bool = False) -> None:
    """Show the report of a run in the browser, written first where there is none. Raises InputError, DamagedRun."""
    screen, path = Screen(quiet, as_json), Path(run) / REPORT
    if not holds(StoredRun.read(run).path, REPORT):
        add_files(path.parent, {REPORT: reports.report_html(material_of(run))})
    where = path.resolve().as_uri()
    opened = webbrowser.open(where)
    screen.say(f"Opened {where}" if opened else f"No browser was found; open this in one: {where}")
    screen.data("open", lambda: {"report": where, "opened": opened})
