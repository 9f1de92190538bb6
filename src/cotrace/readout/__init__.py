"""Readout: what a set does. What its members read and write, where they act, and who feeds whom."""

from cotrace.arguments import door
from cotrace.readout.explain import ExplanationPlan, explain, predict
from cotrace.readout.explanation import Card, Explanation
from cotrace.readout.ov import Moved, Ov
from cotrace.readout.paths import Alone, Arrow, Paths
from cotrace.readout.positions import Acting
from cotrace.readout.reads import Behaviour, Example, Look, Read
from cotrace.readout.writes import Contributions, Written

__all__ = [
    "Acting",
    "Alone",
    "Arrow",
    "Behaviour",
    "Card",
    "Contributions",
    "Example",
    "Explanation",
    "ExplanationPlan",
    "Look",
    "Moved",
    "Ov",
    "Paths",
    "Read",
    "Written",
    "explain",
    "predict",
]

door("ct.readout", globals(), __all__)
