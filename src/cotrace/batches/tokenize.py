"""Prompts as tokens: chat templates, the beginning-of-text token, and texts that tokenise as they should."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from cotrace.errors import InputError
from cotrace.prompts import PromptPair

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
    """Arguments passed on by the user, such as ``enable_thinking``."""
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


Bos = Literal["auto", "yes", "no"]
Tokens = tuple[int, ...]
Offsets = tuple[tuple[int, int], ...]


@lru_cache(maxsize=64)
def every(count: int) -> Tokens:
    """The first so many positions: one object for all prompts of a length, as long ones are large."""
    return tuple(range(count))


@dataclass(frozen=True)
class Text:
    """One prompt as text, with the character spans of its roles."""

    text: str
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rendered: bool = False
    """Whether it comes from a chat template, which writes the leading tokens itself."""


def base_text(pair: PromptPair, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> Text:
    """A pair's base prompt."""
    if pair.messages:
        return _chat(tokenizer, pair.messages, arguments)
    return Text(pair.base, pair.spans)


def counterfactual_text(pair: PromptPair, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> Text:
    """A pair's counterfactual prompt. Raises InputError where it has none."""
    if pair.counterfactual_messages:
        return _chat(tokenizer, pair.counterfactual_messages, arguments)
    check_counterfactual(pair)
    return Text(pair.counterfactual or "", pair.counterfactual_spans)


def check_counterfactual(pair: PromptPair) -> None:
    """Raise InputError where a pair has no counterfactual prompt."""
    if not pair.counterfactual and not pair.counterfactual_messages:
        raise InputError(f"pair {pair.id} has no 'counterfactual', which donors='counterfactual' needs: add the field")


def _chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any]
) -> Text:
    text = render(tokenizer, messages, arguments)
    return Text(text, message_spans(text, messages), rendered=True)


@dataclass(frozen=True)
class Tokenised:
    """A text's tokens, and the characters that each stands for."""

    ids: Tokens
    offsets: Offsets
    """[start, end) in characters for each token; (0, 0) for tokens that stand for no text."""


class TextTokenizer:
    """Turns texts into tokens under one policy for the beginning-of-sequence token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, bos: Bos = "auto") -> None:
        self.tokenizer, self.bos = tokenizer, bos
        self._known: dict[int, int] = {}
        end = tokenizer.eos_token_id
        ids = tokenizer("a")["input_ids"]
        self._appended = 1 if end is not None and len(ids) > 1 and ids[-1] == end else 0
        if bos == "yes" and tokenizer.bos_token_id is None:
            raise InputError("prepend_bos='yes', but the tokenizer has no beginning-of-sequence token; use 'auto'")

    def many(self, texts: Sequence[str], *, rendered: bool = False, bare: bool = False) -> list[Tokenised]:
        """Tokens of each text. ``rendered`` texts hold their leading tokens; ``bare`` ones are to have none."""
        if not texts:
            return []
        special = not (rendered or bare)
        offsets = self.tokenizer.is_fast
        try:
            batch = self.tokenizer(list(texts), add_special_tokens=special, return_offsets_mapping=offsets)
        except Exception as error:  # the tokenizers library raises no class of its own
            raise InputError(
                f"the model's tokenizer cannot read {texts[0][:40]!r} or a text after it ({error}): it has no token "
                "for unknown words; give texts in its own words"
            ) from error
        rows = batch["input_ids"]
        marks = batch["offset_mapping"] if offsets else [[(0, 0)] * len(row) for row in rows]
        one = self._known.setdefault  # equal ids are one object: a long text takes 8 bytes a token, and not 36
        return [
            self._policy(
                Tokenised(tuple(map(one, row, row)), tuple(map(tuple, mark))), text, special=special, bare=bare
            )
            for row, mark, text in zip(rows, marks, texts, strict=True)
        ]

    def _policy(self, text: Tokenised, source: str, *, special: bool, bare: bool) -> Tokenised:
        ids, offsets = text.ids, text.offsets
        if special and self._appended:
            ids, offsets = ids[:-1], offsets[:-1]
        begin = self.tokenizer.bos_token_id
        if bare or begin is None:
            return Tokenised(ids, offsets)
        if self.bos == "yes" and ids[:1] != (begin,):
            ids, offsets = (begin, *ids), ((0, 0), *offsets)
        if self.bos == "no" and ids[:1] == (begin,):
            ids, offsets = ids[1:], offsets[1:]
        if ids[:2] == (begin, begin):
            raise InputError(
                f"{source[:40]!r} begins with a doubled beginning-of-sequence token: leave it out of the text, or use "
                "prepend_bos='no'"
            )
        return Tokenised(ids, offsets)


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The token's text; SentencePiece drops a leading space when it decodes one token alone."""
    space = " " if str(tokenizer.convert_ids_to_tokens(token)).startswith("\u2581") else ""
    return space + str(tokenizer.decode([token])).removeprefix(space)
