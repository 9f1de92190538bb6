"""Texts: what is tokenised for each pair, and the tokens that a tokenizer puts around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from cotrace.batches.chat import message_spans, render
from cotrace.errors import InputError
from cotrace.prompts import PromptPair

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
        return [
            self._policy(Tokenised(self._ids(row), tuple(map(tuple, mark))), text, special=special, bare=bare)
            for row, mark, text in zip(rows, marks, texts, strict=True)
        ]

    def _ids(self, row: Sequence[int]) -> Tokens:
        """Token ids in which equal numbers are one object: a long text takes 8 bytes a token, and not 36."""
        return tuple(map(self._known.setdefault, row, row))

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
