"""The command line: every command under its name."""

from __future__ import annotations

from cyclopts import App, Parameter

from cotrace import __version__
from cotrace.cli.commands import act, judge, keep, look, search, see, take, trust
from cotrace.cli.replay import check_options, replay

HELP = """Find which components of a language model jointly drive a metric.

Start with `cotrace demo`. Then: `cotrace trace --model MODEL --task TASK`."""

COMMANDS = (
    search.demo,
    search.trace,
    search.compare,
    look.measure,
    look.check,
    keep.resume,
    judge.evaluate,
    see.report,
    see.figure,
    act.generate,
    act.edit,
    take.export,
    trust.diff,
    trust.verify,
    trust.cite,
)


def build() -> App:
    """The app with all commands."""
    app = App(
        name="cotrace",
        help=HELP,
        version=__version__,
        config=(replay, check_options),
        default_parameter=Parameter(negative=()),
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for command in COMMANDS:
        app.command(command)
    app.command(look.tasks())
    return app
