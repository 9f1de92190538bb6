"""A selection read from any of the formats."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotrace.errors import InputError
from cotrace.interchange import _document as document
from cotrace.interchange import _mib as mib
from cotrace.results import Selection
from cotrace.text.files import clipped, parse_json, read_text

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


def read_selection(path: str | Path) -> Selection:
    """The selection in a file: cotrace's JSON, MIB's circuit format, a snippet that cotrace wrote, or component names.

    Names stand in a JSON list, in an object under ``components``, or as words with ``#`` comments. Raises InputError.

    Args:
        path: The file.
    """
    where = str(path)
    check_no_pickle(path)
    text = read_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        found = parse_json(text, where, nan=True)  # EAP-IG writes NaN for what has no score
        circuit = isinstance(found, Mapping) and "nodes" in found and "schema" not in found
        return selection_in(found if circuit else parse_json(text, where), where)
    if is_snippet(text):
        return selection_of(text, where)
    lines = (line.split("#")[0] for line in text.splitlines())
    return _named([word for line in lines for word in line.replace(",", " ").split()], where)


def check_no_pickle(path: str | Path) -> None:
    """Raise InputError for what ``torch.save`` or ``pickle`` wrote: reading it would run whatever code it holds."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(4)
    except (OSError, ValueError):
        return  # said where it is read
    if start.startswith((b"PK\x03\x04", b"\x80")):
        raise InputError(
            f"{path} is a pickle, which can run code when it is read: where you trust it, write a circuit of EAP-IG or "
            "MIB as JSON with Graph.from_pt(FILE).to_json('circuit.json'), and give that"
        )


def selection_in(data: Any, where: str) -> Selection:
    """The selection in a JSON value. Raises InputError that begins with ``where``."""
    if isinstance(data, Mapping) and "schema" in data:
        return document.selection_of(data, where)
    if isinstance(data, Mapping) and "nodes" in data:
        return mib.selection_of(data, where)
    holder = data.get("chosen", data) if isinstance(data, Mapping) else data
    names = holder.get("components") if isinstance(holder, Mapping) else holder
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{where}: give a list of component names, an object whose 'components' is one, a selection.json or a "
            "circuit of MIB's format"
        )
    return _named(names, where)


def _named(names: list[str], where: str) -> Selection:
    if not names:
        raise InputError(f"{where} names no component: write them as L9.head6, one a line or separated by spaces")
    try:
        return Selection.parse(names)
    except InputError as error:
        raise InputError(f"{where}: {clipped(str(error), 300)}") from None
