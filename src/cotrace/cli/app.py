"""The command line: every command under its name."""

from __future__ import annotations

from typing import Literal

from cyclopts import App, Parameter

from cotrace import __version__
from cotrace.cli import result_commands, search_commands
from cotrace.cli.replay import check_options, replay

HELP = """Find which components of a language model jointly drive a metric.

Start with `cotrace demo`. Then: `cotrace trace --model MODEL --task TASK`."""

COMMANDS = (
    search_commands.demo,
    search_commands.trace,
    search_commands.compare,
    search_commands.sweep,
    search_commands.measure,
    search_commands.check,
    search_commands.resume,
    search_commands.reproduce,
    result_commands.evaluate,
    result_commands.explain,
    result_commands.transfer,
    result_commands.report,
    result_commands.figure,
    result_commands.generate,
    result_commands.edit,
    result_commands.export,
    result_commands.diff,
    result_commands.verify,
    result_commands.cite,
    result_commands.schema,
)


def completion(shell: Literal["bash", "zsh", "fish", "powershell"]) -> None:
    """Print the completion script of a shell: write it to where the shell looks, or source it in its start file.

    Parameters
    ----------
    shell
        bash, zsh, fish or powershell.
    """
    from cotrace.cli.screen import Screen

    Screen().raw(build().generate_completion(shell=shell) + "\n")


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
    app.command(result_commands.open_report, name="open")
    app.command(search_commands.tasks())
    app.command(completion)
    return app
