"""``cotrace report`` and ``cotrace figure``: a stored run looked at, nothing computed by a model."""

from __future__ import annotations

from pathlib import Path

from cotrace import report as reports
from cotrace.cli.screen import Screen
from cotrace.errors import InputError
from cotrace.new_file import new_file
from cotrace.run_folder.pictures import REDACTED, REPORT, material_of
from cotrace.runs.directory import write_atomically
from cotrace.runs.manifest import add_files


def report(run: str, *, search: str | None, redact: bool, out: str | None, quiet: bool) -> None:
    """Write the report into the run's folder, or to a new file. Raises CotraceError."""
    path = None if out is None else new_file(out)
    content = reports.report_html(material_of(run, search=search, redact=redact))
    if path is None:
        path = Path(run) / (REDACTED if redact else REPORT)
        add_files(path.parent, {path.name: content})
    else:
        write_atomically(path, content)
    Screen(quiet).say(f"Written to {path} ({len(content) / 2**20:.1f} MiB)")


def figure(
    run: str, *, kind: str, form: str, k: int | None, search: str | None, width: str, out: str | None, quiet: bool
) -> None:
    """Draw one figure and write it to a new file. Raises CotraceError."""
    path = new_file(out or f"{kind}.{form}")
    if out and path.suffix != f".{form}":
        raise InputError(f"{path} does not end in .{form}: name the file after its format, or give --format")
    content = reports.drawn(material_of(run, search=search), kind, form, k=k, width=width)
    write_atomically(path, content)
    Screen(quiet).say(f"Written to {path}")
