"""Search: ``demo``, ``trace``, ``compare``."""

from __future__ import annotations

from cotrace.cli.options import SHOWN, AsJson, ConfigFile, DryRun, Options, Showing


def demo(*, out: str | None = None, show: Showing = SHOWN) -> None:
    """The whole journey on the model that ships: five searches on one question, compared, in under a minute.

    Parameters
    ----------
    out
        New folder for the results. Default: cotrace-demo, or the next free name.
    """
    from cotrace.cli import demo as module

    module.demo(out, quiet=show.quiet)


def trace(
    *,
    options: Options,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    show: Showing = SHOWN,
) -> None:
    """Find the best set of components for every size k.

    Parameters
    ----------
    config
        A config.yaml whose fields are used where no option says otherwise; replays a run.
    dry_run
        Say what would be done and what it would cost, and stop.
    as_json
        Print one JSON object with the frontier and the paths written on stdout, and nothing else there.
    """
    from cotrace.cli.answer import answer

    answer(options, ("pursuit",), dry_run=dry_run, quiet=show.quiet, as_json=as_json)


def compare(
    *,
    options: Options,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    show: Showing = SHOWN,
) -> None:
    """Put one question to several searches: frontiers in one figure, costs side by side.

    Parameters
    ----------
    config
        A config.yaml whose fields are used where no option says otherwise; replays a run.
    dry_run
        Say what would be done and what it would cost, and stop.
    as_json
        Print one JSON object with the frontier and the paths written on stdout, and nothing else there.
    """
    from cotrace.cli.answer import COMPARED, answer

    answer(options, COMPARED, dry_run=dry_run, quiet=show.quiet, as_json=as_json)
