"""Acting on a selection: applied while the model runs and generates, or folded into its weights; and what it cost."""

from cotrace.arguments import door
from cotrace.editing.apply import apply
from cotrace.editing.fold import folded
from cotrace.editing.generation import Sampling, continuations, generate
from cotrace.editing.harness import harness
from cotrace.editing.measure import measure_edit
from cotrace.editing.pairs import Continuation, Continuations
from cotrace.editing.rescore import Rescored, rescore
from cotrace.editing.save import save
from cotrace.editing.sides import Limit, Side, neutral, second_task
from cotrace.editing.tradeoff import sweep, tradeoff

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
