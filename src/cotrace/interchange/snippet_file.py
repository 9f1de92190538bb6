"""A snippet read back: its list SELECTED as literals. The code itself is never run."""

from __future__ import annotations

import ast
import re

from cotrace.errors import InputError
from cotrace.results import Selection

_SELECTED = re.compile(r"^SELECTED = (\[\n(?:    '[^'\\\n]*'(?:, '[^'\\\n]*')*,\n)*\]|\[\])$", re.MULTILINE)


def is_snippet(text: str) -> bool:
    """Whether a text is Python that cotrace wrote."""
    return text.startswith('"""A selection found by cotrace')


def selection_of(text: str, where: str) -> Selection:
    """The selection that a snippet names. Raises InputError."""
    found = _SELECTED.search(text)
    if found is None:
        raise InputError(f"{where}: the snippet has no list SELECTED any more; write it anew with cotrace export")
    try:
        return Selection.parse(ast.literal_eval(found[1]))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
