"""Texts as a terminal or a page may show them: what would steer it is written out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control signs but for tab and line break, signs that turn the direction of writing, and halves of characters."""


def visible_json(text: str) -> str:
    """JSON with every such sign as JSON's own escape: the same values, and nothing that a terminal obeys."""
    return _HIDDEN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def json_bytes(data: Any, *, indent: int | None = 1, nan: bool = False, **form: Any) -> bytes:
    """Return the JSON file of plain data, on one line without an indent. Raises ValueError for NaN unless ``nan``."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=nan, **form)
    return f"{visible_json(text)}\n".encode()


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


LONGEST = 300
"""Characters of a cell that are shown."""
RULE = "border-bottom: 1px solid color-mix(in srgb, currentColor 30%, transparent);"
CELL = "padding: 2px 10px; background: none; color: inherit; vertical-align: top; overflow-wrap: anywhere;"


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = frozenset()
) -> str:
    """A titled table; the columns in ``left`` hold words, the others numbers."""
    head = "".join(_cell("th", column, i in left, RULE) for i, column in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(_cell("td", cell, i in left) for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    caption = f'<caption style="{_CAPTION}">{text(title)}</caption>' if title else ""
    heads = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f'<table style="{_TABLE}">{caption}{heads}<tbody>{body}</tbody></table>'


def facts(title: str, values: Mapping[str, object]) -> str:
    """A titled list of names and values; empty values are left out."""
    rows = [(name, str(value)) for name, value in values.items() if value not in (None, "", ())]
    return table(title, ("", ""), rows, left=(0, 1))


def paragraph(words: str) -> str:
    """A sentence or two."""
    return f'<p style="max-width: 60em; margin: 4px 0;">{text(words, most=2000)}</p>'


def text(words: str, most: int = LONGEST) -> str:
    """A text as HTML shows it character by character, without its end where it is very long."""
    words = words if len(words) <= most else f"{words[:most]} …"
    # Signs that turn the direction of writing stay within their own text.
    return f"<bdi>{escape(visible(words))}</bdi>"


def _cell(tag: str, words: str, left: bool, more: str = "") -> str:
    align = "text-align: left;" if left else "text-align: right; font-variant-numeric: tabular-nums;"
    return f'<{tag} style="{CELL} {align} {more}">{text(words)}</{tag}>'


_TABLE = "border-collapse: collapse; color: inherit; background: none; margin: 4px 0;"
_CAPTION = "caption-side: top; text-align: left; color: inherit; font-weight: bold; padding: 2px 10px;"
