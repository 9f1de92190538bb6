"""Keep a run: ``resume``."""

from __future__ import annotations

from cotrace.cli.options import SHOWN, Showing, Trusting


def resume(
    run: str, *, batch_tokens: int | None = None, trust_remote_code: Trusting = False, show: Showing = SHOWN
) -> None:
    """Go on with a run that was killed, interrupted or ran out of room, to the same files as if it never had been.

    Parameters
    ----------
    run
        Folder of the run.
    batch_tokens
        Most tokens in one forward pass from here on, where memory ran out. Last digits may differ then.
    trust_remote_code
        Run the code that comes with the run's model, which no file may ask for. Only for code that you have read.
    """
    from cotrace.cli.answer import resume as go_on
    from cotrace.runs.trusted import trusting

    with trusting(trust_remote_code):
        go_on(run, batch_tokens=batch_tokens, quiet=show.quiet)
