"""Prompt pairs, the tasks made of them, and the JSON Lines format."""

from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task

__all__ = ["PromptPair", "Task"]
