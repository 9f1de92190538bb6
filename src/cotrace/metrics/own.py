"""Metrics of the user's own: any function of the answers' scores, or of the logits at the last prompt position."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cotrace.errors import CotraceError, InputError
from cotrace.metrics.answers import Answers
from cotrace.metrics.metric import Level, Metric, Reads

SIGNATURE = "f(scores, answers) or f(logits, answers), returning a level [mask, example]"


def own_metric(function: Callable[..., Any], name: str | None = None) -> Metric:
    """The metric of a function of ``scores`` [mask, example, answer] (log p of each answer) and ``answers``.

    A first parameter named ``logits`` gets the logits [mask, example, token] at the last prompt position in their
    place. It returns the level [mask, example]; the effect is its change. Raises InputError about the signature.
    """
    called = name or str(getattr(function, "__name__", type(function).__name__))
    reads = _reads(function, called)
    return Metric(name=called, formula=f"change of {called}", inner=_checked(function, called), reads=reads)


def load_own(spec: str) -> Metric:
    """The metric named by ``package.module:function`` or ``path/to/file.py:function``. Raises InputError."""
    return own_metric(load_function(spec, "metric"), spec.rpartition(":")[2])


def load_function(spec: str, kind: str) -> Callable[..., Any]:
    """The user's function of that name; ``kind`` says in messages what it is for. Raises InputError."""
    where, _, name = spec.rpartition(":")
    if not where or not name.isidentifier():
        raise InputError(f"{kind} {spec!r}: name it as package.module:function or path/to/file.py:function")
    what = f"{kind} {spec!r}"
    if not where.endswith(".py") and ("/" in where or Path(where).is_file()):
        raise InputError(f"{what}: {where} is no Python file; name one that ends in .py, or a module")
    module = _file(where, what) if where.endswith(".py") else _module(where, what)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{what}: {where} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _file(path: str, what: str) -> ModuleType:
    if not Path(path).is_file():
        raise InputError(f"{what}: there is no file {path}")
    found = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    guarded(lambda: found.loader.exec_module(module), f"{what}: {path} cannot be run")  # type: ignore[union-attr]
    return module


def _module(name: str, what: str) -> ModuleType:
    module: ModuleType = guarded(lambda: importlib.import_module(name), f"{what}: cannot import {name}")
    return module


def guarded(action: Callable[[], Any], what: str) -> Any:
    """The result of somebody else's code; whatever it raises becomes one line."""
    try:
        return action()
    except CotraceError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {type(error).__name__}: {error}") from error


def _reads(function: Callable[..., Any], name: str) -> Reads:
    try:
        signature = inspect.signature(function)
        signature.bind(None, None)
    except (TypeError, ValueError):
        raise InputError(f"metric {name}: cannot be called with two arguments; write it as {SIGNATURE}") from None
    first = next(iter(signature.parameters.values()))
    return "logits" if first.name == "logits" else "answers"


def _checked(function: Callable[..., Any], name: str) -> Level:
    """The function, always given [mask, example, column], its result checked."""

    def inner(scores: Tensor, answers: Answers) -> Tensor:
        table = scores.reshape(-1, *scores.shape[-2:])
        levels = guarded(lambda: function(table, answers), f"metric {name} fails")
        _check(levels, table, name)
        return levels.reshape(scores.shape[:-1])  # type: ignore[no-any-return]

    return inner


def _check(levels: Any, table: Tensor, name: str) -> None:
    wanted = list(table.shape[:-1])
    if not isinstance(levels, Tensor):
        raise InputError(f"metric {name} returns {type(levels).__name__}, not a tensor [mask, example]")
    if list(levels.shape) != wanted:
        raise InputError(f"metric {name} returns shape {list(levels.shape)}, not [mask, example], here {wanted}")
    if not levels.is_floating_point():
        raise InputError(f"metric {name} returns {levels.dtype}, which has no gradient: return floating-point numbers")
    if not bool(torch.isfinite(levels).all()):
        raise InputError(f"metric {name} returns numbers that are not finite")
    if table.requires_grad and not levels.requires_grad:
        raise InputError(f"metric {name} has no gradient with respect to its argument: do not detach, round or compare")
