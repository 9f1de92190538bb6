"""Interchange: selections for other tools, and from them. docs/interchange.md describes the formats."""

from cotrace.arguments import door
from cotrace.interchange.about import About
from cotrace.interchange.mib import circuit, ranking
from cotrace.interchange.mib_score import MibScore, mib_score
from cotrace.interchange.native import document, schema
from cotrace.interchange.paths import columns_of
from cotrace.interchange.read import read_selection
from cotrace.interchange.shape import Shape
from cotrace.interchange.snippets import nnsight, transformer_lens

__all__ = [
    "About",
    "MibScore",
    "Shape",
    "circuit",
    "columns_of",
    "document",
    "mib_score",
    "nnsight",
    "ranking",
    "read_selection",
    "schema",
    "transformer_lens",
]

door("ct.interchange", globals(), __all__)
