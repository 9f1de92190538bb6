"""Judges: functions of the user's own that give each generated text a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cotrace.errors import InputError
from cotrace.metrics.own import guarded, load_function

Judge = Callable[[Sequence[str], Sequence[str]], Any]
"""(prompts, continuations) -> one number for each."""


def judged(judge: str | Judge, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """One finite number for each text. Raises InputError where the judge returns anything else."""
    function = load_judge(judge)
    name = getattr(function, "__name__", "judge")
    found = guarded(lambda: function(list(prompts), list(texts)), f"judge {name} fails")
    try:
        scores = np.asarray(found, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"judge {name} returns {type(found).__name__}, not one number for each text") from None
    if scores.shape != (len(texts),):
        raise InputError(
            f"judge {name} returns shape {list(scores.shape)}, not one number for each of {len(texts)} texts"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"judge {name} returns numbers that are not finite")
    return [float(score) for score in scores]


def load_judge(judge: str | Judge) -> Judge:
    """The judge named by ``package.module:function`` or ``path/to/file.py:function``. Raises InputError."""
    return load_function(judge, "judge") if isinstance(judge, str) else judge
