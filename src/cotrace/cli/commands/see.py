"""See a result: ``report``, ``figure``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from cotrace.cli.options import SHOWN, Showing

Kind = Literal["frontier", "map", "layers", "interactions", "compare"]
Form = Literal["png", "svg", "pdf"]


def report(
    run: str,
    *,
    redact: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    search: str | None = None,
    out: str | None = None,
    show: Showing = SHOWN,
) -> None:
    """Write report.html of a run: one file with everything that is known of it, that loads nothing from anywhere.

    Parameters
    ----------
    run
        Folder of a finished run.
    redact
        Leave ids in place of texts, for data that may not be handed on; written as report-redacted.html.
    search
        Which search is shown in detail. Default: the first.
    out
        New file for the report. Default: report.html in the run's folder.
    """
    from cotrace.cli import see as module

    module.report(run, search=search, redact=redact, out=out, quiet=show.quiet)


def figure(
    run: str,
    *,
    kind: Kind,
    form: Annotated[Form, Parameter(name=("--format", "-f"))] = "png",
    k: int | None = None,
    search: str | None = None,
    width: Literal["column", "page"] = "page",
    out: str | None = None,
    show: Showing = SHOWN,
) -> None:
    """Draw one figure of a run, at the size and in the fonts of a paper.

    Parameters
    ----------
    run
        Folder of a finished run.
    kind
        frontier: effect by size. map: layers and units of the set of k. layers: how much of it lies in each layer.
        interactions: members by members, as evaluated. compare: what each search reaches for its cost.
    form
        png, svg or pdf.
    k
        Size of the set that map and layers show. Default: the one that was judged.
    search
        Which search comes first. Default: the run's first.
    width
        column: 3.3 inches; page: 7 inches.
    out
        New file. Default: KIND.FORMAT in the working folder.
    """
    from cotrace.cli import see as module

    module.figure(run, kind=kind, form=form, k=k, search=search, width=width, out=out, quiet=show.quiet)
