"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from cotrace.runs.config import RunConfig

ON_SCREEN = Parameter(group=Group("What is shown", sort_key=5), negative="", show_default=False)


@dataclass(frozen=True, kw_only=True)
class Show:
    """What goes to the screen."""

    quiet: Annotated[bool, ON_SCREEN] = False
    """Say nothing but errors."""
    debug: Annotated[bool, ON_SCREEN] = False
    """Show the traceback of an error."""


SHOWN = Show()
"""What is shown where nothing is said of it."""

Flat = Parameter(name="*")
Options = Annotated[RunConfig, Flat]
Showing = Annotated[Show, Flat]
ConfigFile = Annotated[Path | None, Parameter(group=Group("The run", sort_key=4))]
DryRun = Annotated[bool, Parameter(group=Group("The run", sort_key=4), negative="", show_default=False)]
Trusting = Annotated[bool, Parameter(name="--trust-remote-code", negative="", show_default=False)]
"""Run the code that came with the run's model."""
AsJson = Annotated[bool, Parameter(name="--json", group=ON_SCREEN.group, negative="", show_default=False)]
"""Print one JSON object on stdout and nothing else there."""
