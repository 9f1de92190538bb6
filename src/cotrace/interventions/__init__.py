"""Interventions: the soft blend, applied while a model runs over a layout."""

from cotrace.interventions.blend import Patch, PatternPatch, ScalePatch, ShiftPatch, ValuePatch, blend, block_mask
from cotrace.interventions.forward import forward
from cotrace.interventions.frozen import frozen
from cotrace.interventions.prefix import PrefixCache, keep_prefixes
from cotrace.interventions.shortcut import Entry, Stations

__all__ = [
    "Entry",
    "Patch",
    "PatternPatch",
    "PrefixCache",
    "ScalePatch",
    "ShiftPatch",
    "Stations",
    "ValuePatch",
    "blend",
    "block_mask",
    "forward",
    "frozen",
    "keep_prefixes",
]
