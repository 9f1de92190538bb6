"""Acting on a selection: applied while the model runs and generates, or folded into its weights; and what it cost."""

from cotrace.editing.apply import apply
from cotrace.editing.fold import folded
from cotrace.editing.generation import Continuation, Continuations, Sampling, continuations, generate
from cotrace.editing.rescoring import Rescored, harness, measure_edit, rescore
from cotrace.editing.save import save
from cotrace.editing.side_effects import Limit, Side, neutral, second_task, sweep, tradeoff
from cotrace.validation import door

__all__ = [
    "Continuation",
    "Continuations",
    "Limit",
    "Rescored",
    "Sampling",
    "Side",
    "apply",
    "continuations",
    "folded",
    "generate",
    "harness",
    "measure_edit",
    "neutral",
    "rescore",
    "save",
    "second_task",
    "sweep",
    "tradeoff",
]

door("ct.editing", globals(), __all__)
