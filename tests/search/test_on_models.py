"""The default search against exact greedy on trained models: heads of the shipped one and of the 260 K Llama."""

import pytest

from cotrace import tasks
from cotrace.models import load_model
from cotrace.problem import LanguageProblem
from cotrace.prompts import PromptPair, Task
from cotrace.search import Greedy, Pursuit
from cotrace.shipped import MODEL
from tests.tiny import SHARED, needs_shared

TOLERANCE = 0.005
"""Share of greedy's peak that the default search may stay below it at a single k."""
SHARE = 0.40
"""Share of greedy's cost that it may spend."""

NAMES = ("Tom", "Ben", "Sam", "Tim", "Max", "Jack")
OTHERS = ("Lily", "Amy", "Sue", "Mia", "Anna", "Jane")


def stories() -> Task:
    """Pronouns after a boy or a girl, in the words of the model's own training."""
    pairs = [
        PromptPair(
            id=f"{i}-{j}",
            base=f"One day, {boy} went to the park. {boy} was happy because",
            counterfactual=f"One day, {girl} went to the park. {girl} was happy because",
            answers=(" he", " she"),
        )
        for i, boy in enumerate(NAMES)
        for j, girl in enumerate(OTHERS)
    ]
    return Task(name="stories", pairs=tuple(pairs))


def problem(name: str) -> LanguageProblem:
    if name == "stories260k":
        return LanguageProblem(
            load_model(SHARED / "models/stories260k"), stories(), sites=["head_output"], align="ends", holdout=0.3
        )
    return LanguageProblem(load_model(MODEL), tasks.load(name), sites=["head_output"], holdout=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo_bias", pytest.param("stories260k", marks=needs_shared)])
@pytest.mark.filterwarnings("ignore::cotrace.problem._coverage.RefusedPairs")
def test_pursuit_is_at_or_above_greedy_at_every_size_for_less(name: str) -> None:
    p = problem(name)
    assert len(p.space) == 40
    greedy, pursuit = Greedy()(p), Pursuit()(p)
    assert greedy.forward_equivalents == 820
    assert pursuit.forward_equivalents <= SHARE * greedy.forward_equivalents
    assert pursuit.sizes == greedy.sizes == list(range(1, 41))
    effects = {k: (pursuit.sign * pursuit.at(k).effect, greedy.sign * greedy.at(k).effect) for k in greedy.sizes}
    peak = max(theirs for _, theirs in effects.values())
    worst = min(mine - theirs for mine, theirs in effects.values())
    assert worst >= -TOLERANCE * peak, {k: v for k, v in effects.items() if v[0] < v[1] - TOLERANCE * peak}
