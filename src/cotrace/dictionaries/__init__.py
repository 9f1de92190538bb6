"""Dictionaries: sparse autoencoders and transcoders, read, placed in a model, and what their features are."""

from cotrace.arguments import door
from cotrace.dictionaries.dictionary import Dictionary
from cotrace.dictionaries.dictionary_file import save_dictionary
from cotrace.dictionaries.dictionary_loading import Dictionaries, load_dictionaries
from cotrace.dictionaries.entries import Entries
from cotrace.dictionaries.feature_cards import ActiveOn, FeatureCard, describe, features_of_heads, link_of
from cotrace.dictionaries.placed import PlacedDictionary, placed

__all__ = [
    "ActiveOn",
    "Dictionaries",
    "Dictionary",
    "Entries",
    "FeatureCard",
    "PlacedDictionary",
    "describe",
    "features_of_heads",
    "link_of",
    "load_dictionaries",
    "placed",
    "save_dictionary",
]

door("ct.dictionaries", globals(), __all__)
