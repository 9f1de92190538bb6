"""Evaluation: how sure is the answer? Sees only a ``Problem`` and what a search found on it."""

from cotrace.evaluation._sizes import applied, with_intervals
from cotrace.evaluation._verdict import with_verdict
from cotrace.evaluation.evaluate import Foreign, TooFewPairs, evaluate
from cotrace.evaluation.evaluation import Evaluation
from cotrace.evaluation.setup import LEVELS, EvaluationPlan, predict
from cotrace.evaluation.stability import (
    ALTERNATIVES,
    CrossFit,
    alternatives_searched,
    cross_fit,
    folds_cost,
    search_again,
    stability_cost,
)
from cotrace.validation import door

__all__ = [
    "ALTERNATIVES",
    "LEVELS",
    "CrossFit",
    "Evaluation",
    "EvaluationPlan",
    "Foreign",
    "TooFewPairs",
    "alternatives_searched",
    "applied",
    "cross_fit",
    "evaluate",
    "folds_cost",
    "predict",
    "search_again",
    "stability_cost",
    "with_intervals",
    "with_verdict",
]

door("ct.evaluation", globals(), __all__)
