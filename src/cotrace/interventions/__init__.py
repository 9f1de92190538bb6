"""Interventions: the soft blend, applied while a model runs over a layout."""

from cotrace.interventions.blend import (
    DonorFeatures,
    FeaturePatch,
    PatternPatch,
    PlainPatch,
    RunningFeatures,
    ScalePatch,
    ShiftPatch,
    ValuePatch,
    blend,
    edits_of,
)
from cotrace.interventions.forward import (
    DelayedPrefixes,
    Entry,
    LayerInputs,
    PrefixCache,
    forward,
    keep_prefixes,
)

Patch = PlainPatch | FeaturePatch

__all__ = [
    "DelayedPrefixes",
    "DonorFeatures",
    "Entry",
    "FeaturePatch",
    "LayerInputs",
    "Patch",
    "PatternPatch",
    "PlainPatch",
    "PrefixCache",
    "RunningFeatures",
    "ScalePatch",
    "ShiftPatch",
    "ValuePatch",
    "blend",
    "edits_of",
    "forward",
    "keep_prefixes",
]
