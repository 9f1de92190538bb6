"""Distributed: the same problem, its batches run by Ray actors that hold a replica of the model each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"replicas": ["distributed"], "workers": ["Workers"]},
)
