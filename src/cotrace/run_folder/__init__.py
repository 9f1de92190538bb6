"""A run's folder as Python has it: opened again, or written from a problem and what was found on it."""

from cotrace.arguments import door
from cotrace.run_folder.opened import Run, open_run
from cotrace.run_folder.written import save_run

__all__ = ["Run", "open_run", "save_run"]

door("ct", globals(), __all__)
