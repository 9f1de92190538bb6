"""A prompt pair in words."""

from __future__ import annotations

from cotrace.prompts import PromptPair


def pair_lines(pair: PromptPair) -> list[str]:
    """A pair in a few lines: both prompts, and the answers with the target marked."""
    answers = [f"{answer!r} (target)" if i == pair.target else repr(answer) for i, answer in enumerate(pair.answers)]
    lines = [f"  base             {pair.base} ...", f"  counterfactual   {pair.counterfactual} ..."]
    return [*lines, f"  answers          {' / '.join(answers)}"]
