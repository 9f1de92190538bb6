"""Dictionaries: sparse autoencoders and transcoders, read, placed in a model, and what their features are."""

from cotrace.arguments import door
from cotrace.dictionaries.dictionary import Dictionary
from cotrace.dictionaries.dictionary_file import save_dictionary
from cotrace.dictionaries.dictionary_loading import Dictionaries, load_dictionaries
from cotrace.dictionaries.feature_cards import FeatureCard, describe, features_of_heads

__all__ = [
    "Dictionaries",
    "Dictionary",
    "FeatureCard",
    "describe",
    "features_of_heads",
    "load_dictionaries",
    "save_dictionary",
]

door("ct.dictionaries", globals(), __all__)
