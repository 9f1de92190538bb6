"""Arguments of public functions, checked against their annotations: a wrong kind is one line with the remedy."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from typing_extensions import get_protocol_members

from cotrace.errors import CotraceError, InputError, unknown
from cotrace.text.files import shortened

P = ParamSpec("P")
R = TypeVar("R")

WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    bool: "True or False",
}
ORIGINS: Mapping[str, str] = {
    "Sequence": "a list",
    "tuple": "a list",
    "Iterable": "a list",
    "Mapping": "a dict",
    "Callable": "a function",
}
REMEDIES: Mapping[str, str] = {
    "LanguageModel": "make one with ct.load_model(NAME) or ct.wrap(module, tokenizer)",
    "Task": "load one with ct.tasks, such as ct.tasks.jsonl(FILE)",
    "LanguageProblem": "build one with ct.LanguageProblem(model, task)",
    "Problem": "build one with ct.LanguageProblem(model, task); your own inherits from cotrace.problem.Problem",
    "Search": "such as ct.search.Pursuit(); your own inherits from ct.search.Search",
    "Frontier": "ct.trace and every search return one",
    "Selection": "make one with ct.Selection.parse(NAMES)",
    "Component": "make one with ct.Component.parse(NAME)",
    "Site": "such as ct.Site.HEAD_OUTPUT",
}
"""Name of a class -> where a user gets one."""
PLAIN = (str, bytes, Real, list, tuple, dict, set, frozenset, types.NoneType)
"""Plain data, which fits no protocol and no function."""
LISTS = (list, tuple, range, set, frozenset)
"""Types that count as a list; arrays and tensors do too, by what they can do: neither library is loaded for it."""
SEEDS = 1 << 63
"""Seeds lie below it."""


def checked(called: str, *others: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that refuses, as ``called``, arguments that it does not have and values of another kind.

    ``others`` take what the function passes on (its ``**keywords``). Only kinds are looked at; names and
    ranges are the function's own to check. Raises InputError.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        options = list(dict.fromkeys(name for one in (function, *others) for name in _named(one)))
        others_check = not others and any(
            p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()
        )

        @wraps(function)
        def call(*arguments: P.args, **keywords: P.kwargs) -> R:
            check_call(called, function, [*options, *(keywords if others_check else ())], arguments, keywords)
            return function(*arguments, **keywords)

        call.called = called  # type: ignore[attr-defined]
        return call

    return decorate


def check_call(
    called: str, function: Callable[..., Any], options: Sequence[str], given: Sequence[Any], named: Mapping[str, Any]
) -> None:
    """Raise InputError where a function does not take such arguments, by their names, number or kinds."""
    for name in named:
        if name not in options:
            raise InputError(
                f"{called}: {unknown('option', name, options)}" if options else f"{called} takes no options"
            )
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*given, **named).arguments
    except TypeError as error:
        raise InputError(f"{called}: {_unbound(signature, given, str(error))}") from None
    kinds = _kinds(function)
    for name, value in bound.items():
        if name in options:
            check_kind(called, name, value, kinds.get(name, Any))


def _unbound(signature: inspect.Signature, given: Sequence[Any], error: str) -> str:
    """Why arguments do not fit a signature, with what to do about those that must be named."""
    plain = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    if len(given) <= len(plain):
        return error
    value = _shown(given[len(plain)])
    return f"{value} is one argument too many" + (f"; name it, as in {named[0]}={value}" if named else "")


def door(room: str, names: dict[str, Any], public: Iterable[str]) -> None:
    """Have the public functions and classes of a room refuse wrong calls, as ``checked`` does, under its name."""
    for name in public:
        names[name] = _refusing(f"{room}.{name}", names[name])


def lazy_door(room: str, names: dict[str, Any], load: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same for a room whose names ``load`` imports when they are first used; ``names`` keeps them."""

    def get(name: str) -> Any:
        names[name] = _refusing(f"{room}.{name}", load(name))
        return names[name]

    return get


def _refusing(called: str, value: Any) -> Any:
    if isinstance(value, type):
        return guarded(called)(value)
    return checked(called)(value) if callable(value) and not hasattr(value, "called") else value


def guarded(called: str, *, fields: bool = True) -> Callable[[type[R]], type[R]]:
    """A class that refuses, as ``called``, a wrong call of it or of its public methods, and fields of another kind.

    Its own checks come first: only a call that failed is looked at. Without ``fields`` that holds for the values that
    it was made of as well: for classes of which there are many.
    """

    def decorate(made: type[R]) -> type[R]:
        if issubclass(made, BaseException) or getattr(made, "_is_protocol", False):
            return made
        for name in dict.fromkeys(name for one in made.__mro__ for name in vars(one)):
            if name == "__call__" or name[0] != "_":
                _guard_method(made, name, inspect.getattr_static(made, name))
        make: Any = made.__init__
        if hasattr(make, "called") or "__init__" not in vars(made):
            return made
        build = _guarded_call(called, make)

        @wraps(make)
        def __init__(self: R, *arguments: Any, **keywords: Any) -> None:  # noqa: N807
            build(self, *arguments, **keywords)
            if fields and is_dataclass(made):
                check_fields(called, self)

        __init__.called = called  # type: ignore[attr-defined]
        made.__init__ = __init__  # type: ignore[assignment, method-assign]
        return made

    return decorate


def _guard_method(made: type, name: str, method: Any) -> None:
    """Have one method of a class, static or of the class too, refuse a wrong call."""
    function = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
    if isinstance(function, types.FunctionType) and not hasattr(function, "called"):
        call = _guarded_call(made.__name__ if name == "__call__" else f"{made.__name__}.{name}", function)
        setattr(made, name, call if function is method else type(method)(call))


def _guarded_call(called: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose arguments are looked at once it has failed in a way that they may explain."""

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except CotraceError:
            raise
        except (TypeError, AttributeError, ValueError):
            various = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
            check_call(called, function, [*_named(function), *(keywords if various else ())], arguments, keywords)
            raise

    call.called = called  # type: ignore[attr-defined]
    return call


def check_kind(called: str, name: str, value: object, kind: Any) -> None:
    """Raise InputError where the value is not of the kind that an annotation says."""
    if not _fits(value, kind):
        words = list(dict.fromkeys(_words(kind)))
        classes = [word.split()[-1] for word in words]
        remedies = dict.fromkeys(REMEDIES[one] for one in classes if one in REMEDIES)
        behind = f" ({'; '.join(remedies)})" if remedies else ""
        raise InputError(f"{called}: {name} is {_shown(value)}; give {' or '.join(words)}{behind}")


def check_fields(called: str, instance: Any) -> None:
    """Raise InputError where a field of a dataclass holds another kind of value than it declares."""
    for name, kind in _kinds(cast("Hashable", type(instance))).items():
        if get_origin(kind) is not ClassVar:
            check_kind(called, name, getattr(instance, name), kind)


def check_seed(called: str, seed: int) -> None:
    """Raise InputError for a seed that no generator takes."""
    if not 0 <= seed < SEEDS:
        raise InputError(f"{called}: seed is {shortened(seed)}; give a whole number of at least 0 and below 2**63")


def names_of(called: str, name: str, value: object) -> list[str]:
    """Names out of a list, tuple or other collection of text; a single text is one name. Raises InputError."""
    if isinstance(value, str):
        return [value]
    found = list(value) if isinstance(value, Iterable) else [value]
    names = [one for one in found if isinstance(one, str)]
    if len(names) < len(found):
        raise InputError(f"{called}: {name} is {_shown(value)}; give a list of names")
    return names


def listed(value: Any) -> Any:
    """Return a list, or an array of arrays, as tuples of plain values; anything else as it is."""
    if _is_array(value):
        value = value.tolist()
    return tuple(map(listed, value)) if isinstance(value, LISTS) else value


def _named(function: Callable[..., Any]) -> Iterator[str]:
    """The arguments that have a name; a method's own object is none of them."""
    for name, parameter in inspect.signature(function).parameters.items():
        several = parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        if not several and name not in ("self", "cls"):
            yield name


@cache
def _kinds(declared: Hashable) -> Mapping[str, Any]:
    """Name -> declared kind; a class that is only imported for type checkers is known by its name."""
    try:
        return get_type_hints(declared)
    except NameError as error:
        unseen: dict[str, Any] = {}
        while True:
            unseen[str(error.name)] = _unseen(str(error.name))
            try:
                return get_type_hints(declared, localns=unseen)
            except NameError as another:
                error = another


class _Rooms(type):
    def __getattr__(cls, name: str) -> type:
        """A class of a library that is not loaded either, such as pd.DataFrame."""
        if name.startswith("_"):
            raise AttributeError(name)
        return _unseen(name)


class Unseen(metaclass=_Rooms):
    """Stands for a class that is not loaded."""


def _unseen(name: str) -> type:
    return _Rooms(name, (Unseen,), {})


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _fits(value: object, kind: Any) -> bool:
    return any(_fits_one(value, part) for part in _parts(kind))


def _fits_one(value: object, kind: Any) -> bool:
    plain = get_origin(kind) or kind
    if isinstance(plain, type) and issubclass(plain, Unseen):
        return any(one.__name__ == plain.__name__ for one in type(value).__mro__)
    if plain in (int, float):  # numpy's numbers are as good, and True is none
        return isinstance(value, Integral if plain is int else Real) and not isinstance(value, bool)
    if plain in (Any, Literal) or not isinstance(plain, type):
        return True
    if plain in (tuple, Sequence):  # all that holds things one after another is as good, and sets of names are given
        listed = isinstance(value, LISTS if plain is tuple else (*LISTS, Sequence)) or _is_array(value)
        return listed and _holds(value, get_args(kind))
    if getattr(plain, "_is_protocol", False):
        return _keeps(value, plain)
    return isinstance(value, plain) and _holds(value, get_args(kind))


def _keeps(value: object, protocol: type) -> bool:
    """Whether an object has all that a protocol asks for; a class, which was not called, is none."""
    members = get_protocol_members(protocol)
    return not isinstance(value, (*PLAIN, type)) and all(_has(value, name) for name in members)


def _has(value: object, name: str) -> bool:
    """Whether there is such an attribute; properties are not run for it, and what delegates is asked."""
    try:
        inspect.getattr_static(value, name)
    except AttributeError:
        return hasattr(value, name)
    return True


def _holds(value: object, kinds: tuple[Any, ...]) -> bool:
    """Whether a list, a tuple or the like holds the right kinds; a text is a list of texts."""
    if not kinds or not (isinstance(value, (*LISTS, str)) or _is_array(value)):
        return True
    held = list(cast("Iterable[Any]", value.tolist() if _is_array(value) else value))  # type: ignore[attr-defined]
    several = len(kinds) > 1 and kinds[-1] is not Ellipsis
    if several:  # a pair, say: each by its own kind
        return len(held) == len(kinds) and all(map(_fits, held, kinds))
    return all(_fits(one, kinds[0]) for one in held)


def _is_array(value: object) -> bool:
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) >= 1


def _words(kind: Any) -> Iterator[str]:
    """How a sentence speaks of what fits; None, the way to leave an argument out, is not named."""
    for part in _parts(kind):
        plain = get_origin(part) or part
        if plain is types.NoneType or (plain is int and float in _parts(kind)):
            continue
        name = str(getattr(plain, "__name__", plain))
        many = name == "Sequence" or (name == "tuple" and get_args(part)[1:] == (...,))
        held = f" of {get_args(part)[0].__name__}" if many and _is_class(get_args(part)[0]) else ""
        yield WORDS.get(plain) or f"{ORIGINS.get(name, f'a {name}')}{held}"


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and kind is not str


def _shown(value: object) -> str:
    return shortened(value) if isinstance(value, PLAIN) else f"of type {type(value).__name__}"
