"""Interventions: the soft blend, applied while a model runs over a layout."""

from cotrace.interventions.blend import PatternPatch, PlainPatch, ScalePatch, ShiftPatch, ValuePatch, blend
from cotrace.interventions.feature_patch import DonorFeatures, FeaturePatch, taps_of
from cotrace.interventions.forward import forward
from cotrace.interventions.frozen import frozen
from cotrace.interventions.prefix import DelayedPrefixes, PrefixCache, keep_prefixes
from cotrace.interventions.running_features import RunningFeatures
from cotrace.interventions.shortcut import Entry, Stations

Patch = PlainPatch | FeaturePatch

__all__ = [
    "DelayedPrefixes",
    "DonorFeatures",
    "Entry",
    "FeaturePatch",
    "Patch",
    "PatternPatch",
    "PlainPatch",
    "PrefixCache",
    "RunningFeatures",
    "ScalePatch",
    "ShiftPatch",
    "Stations",
    "ValuePatch",
    "blend",
    "forward",
    "frozen",
    "keep_prefixes",
    "taps_of",
]
