"""Dictionaries: sparse autoencoders and transcoders, read, placed in a model, and what their features are."""

import lazy_loader

from cotrace.validation import lazy_door

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = lazy_door("ct.dictionaries", globals(), _load)
