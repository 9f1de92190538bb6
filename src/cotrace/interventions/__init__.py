"""Interventions: the soft blend, applied while a model runs over a layout."""

from cotrace.interventions.blend import Patch, PatternPatch, ScalePatch, ValuePatch, blend
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
    "Stations",
    "ValuePatch",
    "blend",
    "forward",
    "frozen",
    "keep_prefixes",
]
