"""Evaluation: how sure is the answer? Sees only a ``Problem`` and what a search found on it."""

from cotrace.arguments import door
from cotrace.evaluation.again import ALTERNATIVES, folds_cost, stability_cost
from cotrace.evaluation.apply import applied, with_intervals
from cotrace.evaluation.assess import Foreign, TooFewPairs, evaluate
from cotrace.evaluation.case import predict
from cotrace.evaluation.crossfit import CrossFit, cross_fit
from cotrace.evaluation.evaluation import Evaluation
from cotrace.evaluation.levels import LEVELS, EvaluationPlan
from cotrace.evaluation.stability import alternatives_searched, search_again
from cotrace.evaluation.verdict import with_verdict

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
