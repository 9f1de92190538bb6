"""A prompt pair in words."""

from __future__ import annotations

from cotrace.prompts import PromptPair
from cotrace.prompts.pair import chat_words


def pair_lines(pair: PromptPair) -> list[str]:
    """A pair in a few lines: both prompts, and the answers with the target marked."""
    answers = [f"{answer!r} (target)" if i == pair.target else repr(answer) for i, answer in enumerate(pair.answers)]
    base = pair.base or chat_words(pair.messages)
    other = pair.counterfactual or chat_words(pair.counterfactual_messages)
    lines = [f"  base             {base} ...", *([f"  counterfactual   {other} ..."] if other else [])]
    return [*lines, f"  answers          {' / '.join(answers)}"]
