"""Files: new ones, which write nothing over, and JSON that is read with care."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from cotrace.errors import InputError, OutputExists

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


def new_file(name: str | Path, option: str = "--out") -> Path:
    """The path, where a new file can be written; ``option`` is what named it. Raises OutputExists, InputError."""
    path = Path(name)
    if path.exists():
        raise OutputExists(f"the output {path} exists already: name a new file with {option}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"the output {path} cannot be written: there is no folder {path.parent}; make it first")
    return path


Made = TypeVar("Made")
MOST_DIGITS = 100
"""A whole number with more is no number that anybody counts with, and Python refuses to read very long ones."""
LIMIT_BYTES = 512 << 20
"""A larger file is refused before it fills the memory."""
_PIECE_BYTES = 1 << 20


def read_text(path: str | Path) -> str:
    """A UTF-8 text file whole. Raises InputError."""
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; name the file in it")
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def read_bytes(path: Path) -> bytes:
    """A file whole, at most LIMIT_BYTES of it. Raises OSError; InputError for a larger one, a pipe without end too."""
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > LIMIT_BYTES:
            raise InputError(f"{path} has {size:,} bytes, more than the {LIMIT_BYTES:,} that are read; split it")
        content = bytearray()
        while piece := file.read(_PIECE_BYTES):
            content += piece
            if len(content) > LIMIT_BYTES:
                raise InputError(f"{path} has more than the {LIMIT_BYTES:,} bytes that are read; split it")
    return bytes(content)


def parse_json(text: str, where: str, *, nan: bool = False, line: str = "") -> Any:
    """The value of a JSON text; refuses doubled keys, half characters and NaN, which with ``nan`` is read as None.

    ``line`` says what a line should hold, where the text is one. Raises InputError, in one line.
    """
    try:
        return loads(text, nan=nan)
    except json.JSONDecodeError as error:
        if line:
            raise InputError(f"{where}: not JSON at column {error.colno}: {why(error)}; {line}") from None
        raise InputError(f"{where}, line {error.lineno}: not JSON: {why(error)}; write the file again") from None
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds half of a surrogate pair; write the character itself") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply; it is a file of another kind") from None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def loads(text: str, *, nan: bool = False) -> Any:
    """The value of a JSON text that is strict and loses nothing. Raises ValueError and RecursionError."""
    constant = _none_for_nan if nan else _no_constant
    value = json.loads(text, object_pairs_hook=_no_double, parse_constant=constant, parse_int=_whole)
    _written(value).encode()  # an escaped lone surrogate parses, but is no text
    return value


def made_of(kind: type[Made], data: Any) -> Made:
    """A dataclass made of the plain data of a file, field by field. Raises ValueError, in one line."""
    from pydantic import ValidationError

    try:
        made: Made = _adapter(cast("Hashable", kind)).validate_python(data)
        return made
    except ValidationError as error:
        raise ValueError(": ".join(filter(None, refusal(error)))) from None


def refusal(error: Any) -> tuple[str, str]:
    """Field of the first value that pydantic refused (inner ones behind dots; empty: the whole), and the reason."""
    first = error.errors()[0]
    missing = first["type"] == "missing"
    reason = "the field is missing" if missing else f"{first['msg']}; it is {shortened(first['input'])}"
    return ".".join(map(str, first["loc"])), reason


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # takes a while to load, and few files need it

    return TypeAdapter(kind)


@cache
def schema_of(room: str, name: str) -> Draft202012Validator:
    """The check of a JSON Schema (draft 2020-12) that ships with a room; ``schema`` of it is the schema itself."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(files(room).joinpath(name).read_text("utf-8")))


def why(error: json.JSONDecodeError) -> str:
    """Return the error as a sentence of its own, without the place that Python adds."""
    return error.msg.removesuffix(" at").removesuffix(" starting")


def shortened(value: object, most: int = 60) -> str:
    """A value as an error quotes it."""
    return clipped(repr(value), most)


def clipped(text: str, most: int = 160) -> str:
    """A text without its middle where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _no_double(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        seen: set[str] = set()
        double = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the field {shortened(double)} stands twice in one object; keep one")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"holds a number of {len(digits):,} digits; write one of at most {MOST_DIGITS}")
    return int(digits)


def _written(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # 1e999 parses, as infinity
        raise ValueError("holds a number beyond 1.8e308; write one that can be held") from None


def _none_for_nan(name: str) -> None:
    if name != "NaN":
        _no_constant(name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; leave the field out or write null")
