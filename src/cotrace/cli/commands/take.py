"""Take a result to other tools: ``export``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from cotrace.cli.options import SHOWN, Showing

Format = Literal["json", "mib", "transformer-lens", "nnsight", "names", "csv", "effects"]


def export(
    run: str,
    *,
    to: Annotated[Format, Parameter(name=("--format", "-f"))] = "json",
    k: int | None = None,
    search: str | None = None,
    out: str | None = None,
    show: Showing = SHOWN,
) -> None:
    """Write a run's selection as JSON, for other tools, or its figures as CSV.

    Parameters
    ----------
    run
        Folder of a finished run.
    to
        json: with its question. mib: a circuit of the Mechanistic Interpretability Benchmark. transformer-lens,
        nnsight: Python that does the intervention. names: component names. csv: members by size. effects: effects by
        pair.
    k
        Size of the selection. Default: the smallest with 90 % of the best effect.
    search
        Which of the run's searches. Default: the first.
    out
        New file. Default: the screen.
    """
    from cotrace.cli import export as module

    module.export(run, to, k=k, search=search, out=out, quiet=show.quiet)
