"""Figures and the report, from results only: nothing here knows of language models."""

import lazy_loader

from cotrace.validation import lazy_door

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = lazy_door("ct.report", globals(), _load)
