"""Distributed: the same problem, its batches run by Ray actors that hold a replica of the model each."""

import sys
from types import ModuleType
from typing import Any

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"replicas": ["distributed"], "workers": ["Workers"]},
)


class _Room(ModuleType):
    """``ct.distributed`` is the function whether or not this room, which has its name, was imported before."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.distributed(*arguments, **keywords)


sys.modules[__name__].__class__ = _Room
