"""Chats: messages rendered with the model's own template, and where each role's words stand in the text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from transformers import PreTrainedTokenizerBase

from cotrace.errors import InputError

PINNED_DATE = date(2024, 7, 26)
"""The day that a template which asks for today's date is given, so that prompts do not change from day to day."""

_DATE_FORMS = re.compile(r"""strftime_now\(\s*["'](.*?)["']\s*\)""")
_PINNED_NOW = "{% macro strftime_now(form) %}{{ cotrace_dates[form] }}{% endmacro %}"
"""Stands before a template that asks for the date. Templates are given plain data only, so no function is passed."""

Message = Mapping[str, Any]
Spans = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ChatTemplate:
    """How chats become text: the template's own hash and the arguments it was given, for the record of a run."""

    sha256: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the user passed on, such as ``enable_thinking``."""
    pinned_date: str = PINNED_DATE.isoformat()


def chat_template(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> ChatTemplate:
    """The tokenizer's template. Raises InputError where it has none."""
    template = tokenizer.chat_template
    if not template:
        raise InputError(
            "the pairs are chats ('messages'), but the tokenizer has no chat template: give 'base' as text"
        )
    return ChatTemplate(hashlib.sha256(str(template).encode()).hexdigest(), dict(arguments))


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], arguments: Mapping[str, Any]) -> str:
    """A chat as text, up to where the assistant's answer begins. A date that the template inserts is pinned."""
    template = str(tokenizer.chat_template)
    pinned = {
        "date_string": PINNED_DATE.strftime("%d %b %Y"),
        "cotrace_dates": {form: PINNED_DATE.strftime(form) for form in _DATE_FORMS.findall(template)},
    }
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=_PINNED_NOW + template if pinned["cotrace_dates"] else template,
            tokenize=False,
            add_generation_prompt=messages[-1].get("role") != "assistant",
            continue_final_message=messages[-1].get("role") == "assistant",
            **{**pinned, **arguments},
        )
    except Exception as error:  # templates are programs of the model's author and may raise anything
        raise InputError(f"the model's chat template refuses these messages: {error}") from error
    return text


def message_spans(text: str, messages: Sequence[Message]) -> Spans:
    """Role -> where the content of its last message stands in the rendered text, in characters."""
    spans: dict[str, tuple[int, int]] = {}
    start = 0
    for message in messages:
        content = str(message.get("content", "")).strip()
        at = text.find(content, start) if content else -1
        if at >= 0:
            start = at + len(content)
            spans[str(message["role"])] = (at, start)
    return spans
