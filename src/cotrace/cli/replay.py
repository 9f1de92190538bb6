"""--config: the values of a stored configuration, for the options that were not typed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cyclopts import App, ArgumentCollection, Token

from cotrace.errors import InputError


def replay(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give the options that were not typed the values of the file named by --config."""
    named = {argument.name: argument for argument in arguments}
    if "--config" not in named or not named["--config"].tokens:
        return
    from cotrace.runs.config_file import read_config

    path = named["--config"].tokens[0].value
    stored = read_config(path)
    for argument in arguments:
        field = argument.keys[0] if argument.keys else ""
        if hasattr(stored, field) and not argument.tokens:
            argument.tokens += list(_tokens(field, getattr(stored, field), path))


def check_options(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse an option of a search that does not say of which search. Raises InputError."""
    for argument in arguments:
        for token in argument.tokens if argument.name == "--option" else ():
            if len(token.keys) != 2:
                raise InputError(f"{token.keyword}: say which option of which search, as in --option.pgbct.l1 0.01")


def _tokens(field: str, value: Any, source: str) -> Iterator[Token]:
    """A stored value as the words that would have been typed for it."""
    if isinstance(value, dict):
        for keys, setting in _settings(value):
            yield Token(keyword=field, value=_word(setting), source=source, keys=keys)
    elif isinstance(value, tuple):
        if value:
            yield Token(keyword=field, value=",".join(value), source=source)
    elif value is not None:
        yield Token(keyword=field, value=str(value), source=source)


def _settings(settings: dict[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The keys and the value of every setting, however deep."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _settings(value, *above, name)
        else:
            yield (*above, name), value


def _word(setting: Any) -> str:
    return ",".join(map(str, setting)) if isinstance(setting, tuple) else str(setting)
