"""Signals that end a process politely: SIGTERM and SIGHUP become an exception, as Ctrl-C is one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

POLITE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """The process was asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def terminated() -> Iterator[None]:
    """Raise Terminated where such a signal comes; one that is ignored (nohup) or handled already stays so."""
    ours = [one for one in POLITE if _in_main_thread() and signal.getsignal(one) == signal.SIG_DFL]
    for one in ours:
        signal.signal(one, _end)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def _in_main_thread() -> bool:
    """Only there may handlers be set."""
    return threading.current_thread() is threading.main_thread()


def _end(number: int, frame: Any) -> None:
    raise Terminated(number)
