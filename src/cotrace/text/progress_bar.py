"""Progress: one line in a terminal, a bar without widgets in a notebook, nothing elsewhere."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cotrace.text import escape

Draw = Callable[[float | None, str], None]
"""Shows a share done (None: ended) and words."""
Steps = Callable[[str, int, int], None]
"""Called before each part of some work: what it is, how many are done, of how many."""
Counted = Callable[[int, int], None] | bool | None
"""Called with how many parts of some work are done, and of how many; True for a bar, False for none."""
EVERY_S = 0.2
OURS = {"cotrace", "jaxtyping", "beartype"}
"""Packages and modules whose frames lie between a warning and the user's line."""


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this; IPython in a terminal is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def is_watched() -> bool:
    """Whether somebody may be looking: in a notebook, or at a terminal. There progress is shown unless told not to."""
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's that led here, however many of our own functions lie between."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001  # warnings' own way to a frame; skip_file_prefixes is 3.12's
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    """Whether a frame is of this package, or of what checks its calls."""
    name = str(frame.f_globals.get("__name__", ""))
    return not OURS.isdisjoint((name, name.partition(".")[0])) or frame.f_code.co_filename.startswith("<@beartype")


def duration(seconds: float) -> str:
    """``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def drawer() -> Draw:
    """Return the function that draws here."""
    return _notebook_display() if in_notebook() else _terminal_line


def _notebook_display() -> Draw:
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)

    def draw(done: float | None, words: str) -> None:
        bar = "" if done is None else f'<progress value="{done:.3f}" max="1" aria-label="share done"></progress> '
        handle.update(HTML(f"<div>{bar}{escape.text(words)}</div>"))

    return draw


def _terminal_line(done: float | None, words: str) -> None:
    """One line on stderr that is written over in a terminal; elsewhere the last words only."""
    if sys.stderr.isatty():
        share = "" if done is None else f"{done:4.0%} "
        sys.stderr.write(f"\r\x1b[2K{share}{words}" + ("\n" if done is None else ""))
    elif done is None:
        sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


@contextmanager
def stepping(name: str, shown: Steps | bool | None) -> Iterator[Steps]:
    """Return the callback before every step: the function given, a line that is written over, or nothing.

    ``shown``: a function, True for the line, False for none, None for one where somebody may be looking.
    """
    if callable(shown):
        yield shown
    elif not (is_watched() if shown is None else shown):
        yield lambda what, done, of: None
    else:
        line = _Line(name)
        yield line
        line.close()


@contextmanager
def counting(name: str, total: int, shown: Counted) -> Iterator[Callable[[int], None]]:
    """Inside, each call says that so many more of ``total`` are done: to the function given, a bar, or nobody."""
    done, began, last = 0, time.perf_counter(), -EVERY_S
    if shown is None:
        shown = is_watched()
    draw = drawer() if shown is True else None

    def count(more: int) -> None:
        nonlocal done, last
        done += more
        elapsed = time.perf_counter() - began
        if callable(shown):
            shown(done, total)
        elif draw and elapsed - last >= EVERY_S:
            last = elapsed
            draw(done / total, f"{name}: {done:,} of {total:,}{left(began, done, total)}")

    try:
        yield count
    finally:
        if draw:
            draw(None, f"{name}: {done:,} of {total:,} in {duration(time.perf_counter() - began)}")


class _Line:
    """The line of one piece of work: share done, what is done now, time left."""

    def __init__(self, name: str) -> None:
        self._name, self._draw = name, drawer()
        self._began, self._shown = time.perf_counter(), -EVERY_S

    def __call__(self, what: str, done: int, of: int) -> None:
        if time.perf_counter() - self._shown >= EVERY_S:
            self._shown = time.perf_counter()
            self._draw(done / max(1, of), f"{self._name}: {what}{left(self._began, done, of)}")

    def close(self) -> None:
        """The last words."""
        self._draw(None, f"{self._name}: done in {duration(time.perf_counter() - self._began)}")


def left(began: float, done: int, of: int) -> str:
    """The time that is left, once it can be told; with a comma in front."""
    elapsed = time.perf_counter() - began
    return f", {duration(elapsed * (of - done) / done)} left" if done and elapsed >= 1 else ""
