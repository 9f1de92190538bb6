"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token

from cotrace.errors import InputError
from cotrace.runs.config import RunConfig, SourceOptions, WorkerOptions

TASK_OPTIONS = ("several", "leading_space", "statistics")
"""Arguments of tasks that errors name."""
PYTHON = (
    (r"gguf_file='([^']*)'", r"--gguf \1"),
    (r"\bgguf_file\b", "--gguf"),
    (r"apply\(\) at run time", "cotrace generate, which applies it at run time"),
    (r",? or (give )?cotrace\.donors\.\w+\([^)]*\)", ""),
    (r" \([a-z_]+=True\)", ""),
    (r"pass one to cotrace\.wrap\(model, tokenizer\)", "give --model a folder that has one"),
    (r"the nearest below is (\d+), and best\(.*\)[^;]*", r"give --k \1, the nearest below"),
    (r"give hook, as in hook='[^']*'", "name their folders as Gemma Scope does, or load them in Python"),
    (r"load one of them, by hook=\.\.\.", "name the folder of one of them"),
    (r"trained_on='([^']*)'", r"--dictionaries-of \1"),
    (r"dictionaries=ct\.load_dictionaries\(FOLDER\)", "--dictionaries FOLDER"),
    (r"PGBCT\((\w+)=(\w+)\)", r"--option.pgbct.\1 \2"),
)
"""Remedies in Python's words -> the same in the command line's."""
_VALUE = r"(?:'([^']*)'|\"([^\"]*)\"|(-?[\w./+]*\w))"
ON_SCREEN = Parameter(group=Group("What is shown", sort_key=5), negative="", show_default=False)


@dataclass(frozen=True, kw_only=True)
class Said:
    """The options that decide the output on the screen."""

    quiet: Annotated[bool, ON_SCREEN] = False
    """Say nothing but errors."""
    debug: Annotated[bool, ON_SCREEN] = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Show(Said):
    """The same, or JSON for programs in its stead."""

    as_json: Annotated[bool, Parameter(name="--json", group=ON_SCREEN.group, negative="", show_default=False)] = False
    """Print one JSON object on stdout, and nothing else there; `cotrace schema` says what is in it."""


SAID, SHOWN = Said(), Show()
"""Defaults shown in the help where the field itself has none."""


PLAIN, ALONE = SourceOptions(), WorkerOptions()
"""Defaults of the options of weights and data, and of workers."""

Flat = Parameter(name="*")
Handed = Annotated[WorkerOptions, Flat]
Sourced = Annotated[SourceOptions, Flat]
Options = Annotated[RunConfig, Flat]
Showing = Annotated[Show, Flat]
Saying = Annotated[Said, Flat]
"""Option of commands whose figures go to a file as well: their --json names it."""
ConfigFile = Annotated[Path | None, Parameter(group=Group("The run", sort_key=4))]
DryRun = Annotated[bool, Parameter(group=Group("The run", sort_key=4), negative="", show_default=False)]
Trusting = Annotated[bool, Parameter(name="--trust-remote-code", negative="", show_default=False)]
"""Run the code that came with the run's model."""
Names = Annotated[tuple[str, ...], Parameter(converter=lambda _, tokens: tuple(listed(tokens)), show_default=False)]
"""Several, separated by commas or by naming the option again."""
Whole = Annotated[tuple[int, ...], Parameter(converter=lambda _, tokens: numbers(tokens, int), show_default=False)]
Real = Annotated[tuple[float, ...], Parameter(converter=lambda _, tokens: numbers(tokens, float), show_default=False)]


def listed(tokens: Sequence[Token]) -> Iterator[str]:
    """Split the words typed at commas; an existing path is left whole."""
    for token in tokens:
        whole = Path(token.value).exists()
        yield from [token.value] if whole else filter(None, map(str.strip, token.value.split(",")))


def numbers(tokens: Sequence[Token], kind: type[Any]) -> tuple[Any, ...]:
    """The same as numbers. Raises InputError naming the one that is none."""
    found = []
    for word in listed(tokens):
        try:
            found.append(kind(word))
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise InputError(f"{tokens[0].keyword}: {word!r} is not {what}; separate several by commas") from None
    return tuple(found)


def in_options(line: str) -> str:
    """The line with Python's arguments (``align='ends'``) as the command line has them (``--align ends``)."""
    from cotrace.search import SEARCHES

    search = SEARCHES.get(line.partition(":")[0])
    own = [] if search is None else [field.name for field in fields(search)]
    names = [*(field.name for field in fields(RunConfig)), *TASK_OPTIONS, *own]
    for python, instead in PYTHON:
        line = re.sub(python, instead, line)
    pattern = rf"(?<![\w.'-])({'|'.join(names)})={_VALUE}"
    line = re.sub(pattern, lambda found: f"{_option(found[1], search, own)} {found[2] or found[3] or found[4]}", line)
    two_words = "|".join(field.name for field in fields(RunConfig) if "_" in field.name)
    return re.sub(rf"(?<![\w.'/-])({two_words})(?![\w'/(:])", lambda found: f"--{found[1].replace('_', '-')}", line)


def _option(name: str, search: type | None, own: Sequence[str]) -> str:
    if name in own and name not in ("max_size", "seed"):
        return f"--option.{search.name}.{name}"  # type: ignore[union-attr]
    return f"--task-option.{name}" if name in TASK_OPTIONS else f"--{name.replace('_', '-')}"
