"""Interchange: selections for other tools, and from them. docs/interchange.md describes the formats."""

from cotrace.interchange import circuits as known
from cotrace.interchange._document import About, document, schema
from cotrace.interchange._mib import MibScore, Shape, circuit, mib_score, ranking
from cotrace.interchange._read import read_selection
from cotrace.interchange._snippets import columns_of, nnsight, transformer_lens
from cotrace.validation import door

__all__ = [
    "About",
    "MibScore",
    "Shape",
    "circuit",
    "columns_of",
    "document",
    "known",
    "mib_score",
    "nnsight",
    "ranking",
    "read_selection",
    "schema",
    "transformer_lens",
]

door("ct.interchange", globals(), __all__)
