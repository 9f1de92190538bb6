"""An evaluation made by hand."""

from __future__ import annotations

from itertools import combinations

from cotrace.evaluation import Evaluation, with_verdict
from cotrace.evaluation._records import Interactions, Pair, SizeEvidence
from cotrace.results import Frontier

WITHIN = (0.5, -1.0, 0.25)


def evaluation(frontier: Frontier, k: int) -> Evaluation:
    """Of the selection of k, with interactions between its members."""
    names = tuple(frontier.at(k).components)
    pairs = tuple(
        Pair(components=two, within=within, interval=None, alone=None, kind="none")
        for two, within in zip(combinations(names, 2), WITHIN, strict=True)
    )
    found = Evaluation(
        level="standard",
        search=frontier.search,
        metric=frontier.metric,
        task=frontier.task,
        mode=frontier.mode,
        direction=frontier.direction,
        judged_on="held-out",
        pairs=40,
        units="40 pairs",
        k=k,
        components=names,
        full_effect=2.25,
        full_interval=(2.0, 2.5),
        sizes=(SizeEvidence(k=k, effect=1.5),),
        interactions=Interactions(pairs=pairs, shapley=None, backups=(), inhibitors=(), outside_tested=0),
    )
    return with_verdict(found)
