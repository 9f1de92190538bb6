"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from cotrace.errors import InputError
from cotrace.runs.config import FLAG, MODEL, QUESTION, WORKERS, RunConfig

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


@dataclass(frozen=True, kw_only=True)
class Source:
    """The weights and the data of a command that looks before any search; the fields are RunConfig's own."""

    revision: Annotated[str | None, MODEL] = None
    """Branch, tag or commit of the model."""
    dtype: Annotated[Literal["float32", "float64", "bfloat16", "float16"], MODEL] = "float32"
    """Number type of the weights."""
    device: Annotated[str, MODEL] = "cpu"
    """Where the model runs, such as cpu or cuda:0."""
    device_map: Annotated[str | None, MODEL] = None
    """auto spreads the layers over devices, main memory and disk (needs accelerate)."""
    offload_folder: Annotated[str | None, MODEL] = None
    """Folder for the weights that device_map leaves on disk. Default: a temporary one."""
    quantise: Annotated[Literal["8bit", "4bit"] | None, MODEL] = None
    """Keep the weights in 8 or 4 bits (needs bitsandbytes); activations stay of type dtype."""
    gguf: Annotated[str | None, MODEL] = None
    """Name of a GGUF file in the model's folder: its weights, read as floating point (needs gguf and accelerate)."""
    trust_remote_code: Annotated[bool, FLAG] = False
    """Run the code that comes with the model. Only for code that you have read."""
    data: Annotated[str | None, QUESTION] = None
    """File or folder with the task's own data."""
    split: Annotated[str | None, QUESTION] = None
    """The benchmark's own part, such as dev or test."""
    conventions: Annotated[Literal["corrected", "paper"] | None, QUESTION] = None
    """How a benchmark is read and scored: corrected or paper."""

    @property
    def of_model(self) -> dict[str, Any]:
        """Return the options of the model, without those of the data."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "split", "conventions")}

    def config(self, **asked: Any) -> RunConfig:
        """The configuration of a run that asks this."""
        return RunConfig(**asdict(self), **asked)


PLAIN = Source()
"""Defaults of the options of weights and data."""


@dataclass(frozen=True, kw_only=True)
class Hands:
    """Options of who computes; the fields are RunConfig's own."""

    workers: Annotated[int | None, WORKERS] = None
    """Run the batches on so many Ray workers. Default: in this process."""
    ray: Annotated[str | None, WORKERS] = None
    """Cluster that the workers run on, as HOST:PORT of its head, or auto. Default: Ray is begun on this machine."""
    worker_gpus: Annotated[float | None, WORKERS] = None
    """GPUs of each worker: 0.25 puts four on one, 2 spreads a model over two. Default: none."""
    max_restarts: Annotated[int | None, WORKERS] = None
    """Workers that may be lost and begun again in all. Default: 10."""

    @property
    def asked(self) -> dict[str, Any]:
        """Return the options of workers that were given; empty where none were."""
        return {name: value for name, value in asdict(self).items() if value is not None}


ALONE = Hands()
"""Defaults of the options of workers."""

Flat = Parameter(name="*")
Handed = Annotated[Hands, Flat]
Sourced = Annotated[Source, Flat]
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
    """The words typed, taken apart at commas; what is a path as it stands is left whole."""
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
