"""Texts as a terminal may show them: what would steer it, or turn the order of the letters, is written out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control signs but for tab and line break, signs that turn the direction of writing, and halves of characters."""


def visible_json(text: str) -> str:
    """JSON with every such sign as JSON's own escape: the same values, and nothing that a terminal obeys."""
    return _HIDDEN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def visible_in(data: Any) -> Any:
    """Plain data with every text in it visible."""
    if isinstance(data, str):
        return visible(data)
    if isinstance(data, Mapping):
        return {visible_in(key): visible_in(value) for key, value in data.items()}
    return [visible_in(one) for one in data] if isinstance(data, list | tuple) else data


def visible(text: str) -> str:
    """The text with every such sign as its escape, so that texts from files do nothing but show."""
    return _HIDDEN.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)
