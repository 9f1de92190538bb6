"""A run's folder in Python: opened again, or written from a problem and its results."""

from cotrace.run_folder.folder import Run, open_run, save_run
from cotrace.validation import door

__all__ = ["Run", "open_run", "save_run"]

door("ct", globals(), __all__)
