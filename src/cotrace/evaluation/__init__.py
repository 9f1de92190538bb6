"""Evaluation: how sure is the answer? Sees only a ``Problem`` and what a search found on it."""

from cotrace.evaluation.apply import applied, with_intervals
from cotrace.evaluation.assess import Foreign, TooFewPairs, evaluate
from cotrace.evaluation.case import predict
from cotrace.evaluation.crossfit import CrossFit, cross_fit
from cotrace.evaluation.evaluation import Evaluation
from cotrace.evaluation.levels import LEVELS, EvaluationPlan
from cotrace.evaluation.stability import alternatives_searched, predicted_cost, search_again

__all__ = [
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
    "predict",
    "predicted_cost",
    "search_again",
    "with_intervals",
]
