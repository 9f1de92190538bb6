"""Benchmarks from the Hugging Face hub, at a pinned revision, through the optional package ``datasets``."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from cotrace.errors import InputError


def hub_rows(name: str, revision: str, *, task: str, split: str = "train") -> Iterable[object]:
    """The rows of a data set, as mappings. Raises InputError where ``datasets`` or the hub cannot be had."""
    try:
        datasets = import_module("datasets")
    except ModuleNotFoundError:
        need = "install cotrace[hub], or give the authors' files as data=PATH"
        raise InputError(f"task {task} from the Hugging Face hub needs the package datasets: {need}") from None
    try:
        rows: Iterable[object] = datasets.load_dataset(name, revision=revision, split=split)
    except Exception as error:  # the package raises its own and its transport's errors
        reason = str(error).split("\n")[0] or type(error).__name__
        need = "check the network, or give the authors' files as data=PATH"
        raise InputError(f"task {task}: {name} cannot be loaded from the hub ({reason}); {need}") from None
    return rows
