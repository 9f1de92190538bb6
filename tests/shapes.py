"""Types and shapes of every call in cotrace are checked while the tests run: by beartype, shapes by jaxtyping.

jaxtyping's own import hook makes two checkers for each of 3,400 functions when they are defined, and again for each
closure. Here one is made at the first call, and jaxtyping's, slower at every call, only where a signature has a shape.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import cache_from_source
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

from beartype import BeartypeConf, beartype
from beartype.door import die_if_unbearable
from jaxtyping import AbstractArray, config, jaxtyped

CONF = BeartypeConf(is_pep484_tower=True)
"""An int where a float is asked for is taken, as type checkers do (PEP 484)."""
Function = Callable[..., Any]


def install(package: str = "cotrace") -> None:
    """Check every module of the package that is imported from now on.

    A worker of Ray's has imported it before it is sent something of a test's module: there nothing is checked.
    """
    if not _in_worker():
        assert package not in sys.modules, f"{package} is imported already, so its calls would go unchecked"
        sys.meta_path.insert(0, _Finder(package))


def _in_worker() -> bool:
    """Whether this process is a worker of Ray's."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    return bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


@contextmanager
def unchecked() -> Iterator[None]:
    """As users run it: nothing is checked."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


class _Finder(MetaPathFinder):
    """Finds the package's modules as always, and has them loaded with checks."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Decorates every function and class of a module; its bytecode is kept beside the undecorated."""

    def source_to_code(self, data: Any, path: Any, **options: Any) -> CodeType:
        tree = ast.fix_missing_locations(_Decorating().visit(ast.parse(data, path)))
        return compile(tree, path, "exec", dont_inherit=True)

    def get_code(self, fullname: str) -> CodeType | None:
        beside = partial(cache_from_source, optimization="checked1")
        with patch("importlib._bootstrap_external.cache_from_source", beside):
            return super().get_code(fullname)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(_checked_function=checked, _checked_class=checked_class)
        super().exec_module(module)
        if module.__name__ == "cotrace.text.progress_bar":  # warnings are told at the line behind a check
            module.OURS.add(__name__)


class _Decorating(ast.NodeTransformer):
    """A function is decorated first of all, a class last, when it has become a dataclass."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(ast.copy_location(ast.Name("_checked_function", ast.Load()), node))
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, ast.copy_location(ast.Name("_checked_class", ast.Load()), node))
        return self.generic_visit(node)


def checked_class(kind: type) -> type:
    """The class; what makes one is checked where it is a dataclass."""
    made = vars(kind).get("__init__")
    if is_dataclass(kind) and isinstance(made, FunctionType) and not hasattr(made, "__wrapped__"):
        kind.__init__ = checked(made)  # type: ignore[misc]
    return kind


def checked(function: Function) -> Function:
    """The function, with its arguments and its value checked."""
    strict: Function | None = None

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        nonlocal strict
        if config.jaxtyping_disable:
            return function(*args, **named)
        if strict is None:
            strict = _strict(function)
        with jaxtyped("context"):  # names of axes are a call's own, in what its body asks with isinstance too
            return strict(*args, **named)

    return call


def _strict(function: Any) -> Function:
    hints = _hints(function.__code__, function)
    if any(_has_shape(hint) for hint in hints.values()):
        return jaxtyped(function, typechecker=beartype(conf=CONF))
    if "<locals>" in function.__qualname__ or inspect.isgeneratorfunction(function):
        return _by_hand(function, hints)
    own = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    own.__kwdefaults__, own.__annotations__ = function.__kwdefaults__, hints
    own.__module__, own.__qualname__ = function.__module__, function.__qualname__
    return beartype(own, conf=CONF)


def _by_hand(function: Function, hints: Mapping[str, Any]) -> Function:
    """Checked without code that is generated for it.

    For a function that is made anew at every call of another, and for a generator, which beartype checks when it runs.
    """
    signature = inspect.signature(function)
    stars = {p.name for p in signature.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def call(*args: Any, **named: Any) -> Any:
        for name, value in signature.bind(*args, **named).arguments.items():
            if name in hints and name not in stars:
                die_if_unbearable(value, hints[name], conf=CONF)
        value = function(*args, **named)
        if "return" in hints:
            die_if_unbearable(value, hints["return"], conf=CONF)
        return value

    return call


_KNOWN: dict[int, tuple[CodeType, dict[str, Any]]] = {}
"""By identity, as the code of dataclasses with equal names of fields is equal; held, so that no other has its own."""


def _hints(code: CodeType, function: Any) -> dict[str, Any]:
    """The annotations as types; one that names what is there for type checkers only is anything."""
    if id(code) not in _KNOWN:
        found = {name: _hint(text, function) for name, text in function.__annotations__.items()}
        _KNOWN[id(code)] = (code, found)
    return dict(_KNOWN[id(code)][1])


def _hint(annotation: Any, function: Any) -> Any:
    try:
        holder = SimpleNamespace(__annotations__={"value": annotation})
        return get_type_hints(holder, function.__globals__, include_extras=True)["value"]
    except Exception:  # whatever an annotation that is never evaluated elsewhere may raise
        return Any


def _has_shape(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_has_shape, get_args(hint)))
