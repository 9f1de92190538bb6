"""Trust a result: ``diff``, ``verify``, ``cite``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cotrace.cli.options import SHOWN, Showing, Trusting

Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]


def diff(one: str, other: str, *, as_json: Json = False, show: Showing = SHOWN) -> None:
    """Say what differs between two runs, and whether their results agree.

    Parameters
    ----------
    one
        Folder of a finished run.
    other
        Folder of another.
    as_json
        One JSON object on stdout, nothing else.
    """
    from cotrace.cli.trust import compare_runs

    compare_runs(one, other, quiet=show.quiet, as_json=as_json)


def verify(
    run: str,
    *,
    examples: int = 20,
    model: str | None = None,
    as_json: Json = False,
    trust_remote_code: Trusting = False,
    show: Showing = SHOWN,
) -> None:
    """Check every file of a run by its hash, and compute its effects again: same, within tolerance, or different.

    Parameters
    ----------
    run
        Folder of a finished run.
    examples
        How many pairs of each part to compute again, for up to 16 selections of each search.
    model
        Where the run's model lies on this machine, if not where the run says.
    as_json
        One JSON object on stdout, nothing else.
    trust_remote_code
        Run the code that comes with the run's model, which no file may ask for. Only for code that you have read.
    """
    from cotrace.cli.trust import verify_run
    from cotrace.runs.trusted import trusting

    with trusting(trust_remote_code):
        verify_run(run, examples, model=model, quiet=show.quiet, as_json=as_json)


def cite(run: str, *, show: Showing = SHOWN) -> None:
    """Print a methods paragraph for a run, and BibTeX for the tool, the paper, the searches, the model and the data.

    Parameters
    ----------
    run
        Folder of a finished run.
    """
    from cotrace.cli.trust import cite_run

    cite_run(run)
