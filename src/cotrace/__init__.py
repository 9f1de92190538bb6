"""cotrace: which components of a language model jointly drive a metric.

Names are loaded when they are first used (the list is in ``__init__.pyi``), so that importing costs nothing.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
