"""The list of tasks, and loading one by its name: what the command line offers."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from cotrace.errors import InputError, unknown
from cotrace.prompts.task import Task
from cotrace.tasks.agreement import INFO as AGREEMENT
from cotrace.tasks.auto_circuit import INFO as AUTO_CIRCUIT
from cotrace.tasks.binding import INFO as BINDING
from cotrace.tasks.counterfact import INFO as COUNTERFACT
from cotrace.tasks.factual_gender import INFO as FACTUAL_GENDER
from cotrace.tasks.greater_than import INFO as GREATER_THAN
from cotrace.tasks.info import TaskInfo
from cotrace.tasks.ioi import INFO as IOI
from cotrace.tasks.mib import INFO as MIB
from cotrace.tasks.own import INFOS as OWN
from cotrace.tasks.professions import INFO as PROFESSIONS
from cotrace.tasks.text import INFO as TEXT
from cotrace.tasks.winobias import INFO as WINOBIAS
from cotrace.tasks.winogender import INFO as WINOGENDER

_BENCHMARKS = (
    WINOBIAS,
    WINOGENDER,
    PROFESSIONS,
    COUNTERFACT,
    IOI,
    GREATER_THAN,
    AGREEMENT,
    BINDING,
    FACTUAL_GENDER,
    TEXT,
)
TASKS: Mapping[str, TaskInfo] = {info.name: info for info in (*_BENCHMARKS, MIB, AUTO_CIRCUIT, *OWN)}
"""Name -> what is known of the task."""
FORMATS = {".json": "auto_circuit"} | dict.fromkeys((".jsonl", ".ndjson", ".csv", ".tsv"), "jsonl")
"""Ending of a file's name -> the task that reads it."""


def named(name: str) -> TaskInfo:
    """The task of that name. Raises UnknownName with the close match and the list."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def load(
    name_or_path: str | Path,
    data: str | Path | None = None,
    split: str | None = None,
    conventions: str | None = None,
    **options: Any,
) -> Task:
    """The task of that name or of a file (JSON Lines, CSV, TSV, auto-circuit's JSON); ``data`` is a benchmark's folder.

    ``options`` are the task function's own. One that it does not have is refused, never passed over. Raises InputError.
    """
    name = str(name_or_path)
    if is_file(name):
        if data is not None:
            raise InputError(f"task {name} is a file of your own, which takes no data folder; leave one of the two out")
        name, data = _format(Path(name)), name
    if name not in TASKS and (Path(name).suffix or len(Path(name).parts) > 1):
        raise InputError(f"there is no file {name}; give one that is there, or the name of a task ({', '.join(TASKS)})")
    info = named(name)
    given = {"split": split, "conventions": conventions, **options}
    chosen = {option: value for option, value in given.items() if value is not None}
    _check(info, data, chosen)
    return info.load(**chosen) if data is None else info.load(data, **chosen)


def is_file(name: str) -> bool:
    """Whether this names a file, or a folder, rather than a task."""
    path = Path(name)
    return name not in TASKS and (path.suffix.lower() in FORMATS or path.exists())


def _format(path: Path) -> str:
    """The task that reads a file. Raises InputError where none does."""
    if path.suffix.lower() in FORMATS:
        return FORMATS[path.suffix.lower()]
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, not a task; name the task whose data it holds, with --task NAME --data {path}"
        )
    raise InputError(
        f"{path} is no format of pairs: they are read from JSON Lines (.jsonl), CSV (.csv), TSV (.tsv) and "
        f"auto-circuit's JSON (.json); write it as one of these. A neutral text is read with --task text --data {path}"
    )


def _check(info: TaskInfo, data: str | Path | None, chosen: Mapping[str, Any]) -> None:
    if data is None and info.needs_data:
        raise InputError(f"task {info.name} needs data: give data=PATH, {info.data}")
    if data is not None and info.data_use == "none":
        raise InputError(f"task {info.name} takes no data; leave data=PATH out")
    if "split" in chosen and info.splits and chosen["split"] not in info.splits:
        raise unknown("split", chosen["split"], info.splits)
    has = [name for name in signature(info.load).parameters if name not in ("path", "model")]
    for option in chosen:
        if option not in has:
            raise InputError(f"task {info.name} has no option {option!r}; it has {', '.join(has) or 'none'}")
