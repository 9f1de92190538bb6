"""Readout: what a set does. What its members read and write, where they act, and who feeds whom."""

import lazy_loader

from cotrace.validation import lazy_door

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = lazy_door("ct.readout", globals(), _load)
