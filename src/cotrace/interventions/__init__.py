"""Interventions: the soft blend, applied while a model runs over a layout."""

from cotrace.interventions.blend import Patch, PatternPatch, ScalePatch, ValuePatch, blend, block_mask
from cotrace.interventions.forward import forward
from cotrace.interventions.frozen import frozen
from cotrace.interventions.prefix import DelayedPrefixes, PrefixCache, keep_prefixes
from cotrace.interventions.shortcut import Entry, Stations

__all__ = [
    "DelayedPrefixes",
    "Entry",
    "Patch",
    "PatternPatch",
    "PrefixCache",
    "ScalePatch",
    "Stations",
    "ValuePatch",
    "blend",
    "block_mask",
    "forward",
    "frozen",
    "keep_prefixes",
]
