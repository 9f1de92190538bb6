"""TaskInfo: what is said of a task before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cotrace.prompts.task import Task


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """A line of ``cotrace tasks``, and the function that loads the task."""

    name: str
    about: str
    """One line: what is asked of the model."""
    source: str
    """Where it comes from, with the paper."""
    licence: str = "none stated"
    size: str
    """How many pairs."""
    metric: str
    """The metric it is judged by unless the user asks for another."""
    data: str = ""
    """What the data folder must hold and where to get it; empty where the task takes none."""
    data_use: Literal["needed", "optional", "none"] = "none"
    splits: tuple[str, ...] = ()
    """The benchmark's own parts, the default first."""
    conventions: bool = False
    """Whether it can follow the paper's code (``paper``) as well as its corrected form."""
    load: Callable[..., Task]

    @property
    def needs_data(self) -> bool:
        return self.data_use == "needed"
