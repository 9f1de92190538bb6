"""Texts as a terminal may show them: what would steer it, or turn the order of the letters, is written out."""

from __future__ import annotations

import re

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control signs but for tab and line break, signs that turn the direction of writing, and halves of characters."""


def visible(text: str) -> str:
    """The text with every such sign as its escape, so that texts from files do nothing but show."""
    return _HIDDEN.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)
