"""Shared parts of benchmark tasks: their description, reading of files, the hub, and generation by seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

from cotrace.errors import InputError, first_line, unknown
from cotrace.prompts.pair import PromptPair
from cotrace.prompts.task import Task
from cotrace.text.files import parse_json, read_text
from cotrace.validation import check_seed


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """A line of ``cotrace tasks``, and the function that loads the task."""

    name: str
    """Name on the command line."""
    about: str
    """One line: what is asked of the model."""
    source: str
    """Origin of the task, with the paper."""
    licence: str = "none stated"
    """Licence of the data."""
    size: str
    """How many pairs."""
    metric: str
    """The metric it is judged by unless the user asks for another."""
    data: str = ""
    """Files that the data folder must hold and where to get them; empty where the task takes none."""
    data_use: Literal["needed", "optional", "none"] = "none"
    """Whether the task's data have to be given."""
    splits: tuple[str, ...] = ()
    """The benchmark's own parts, the default first."""
    conventions: bool = False
    """Whether it can follow the paper's code (``paper``) as well as its corrected form."""
    load: Callable[..., Task]
    """Function that loads the task."""

    @property
    def needs_data(self) -> bool:
        """Whether the user has to bring the task's data."""
        return self.data_use == "needed"


Conventions = Literal["corrected", "paper"]
Skipped = tuple[tuple[str, str], ...]
"""Records that could not be used: (which, why)."""


def checked_conventions(name: str) -> Conventions:
    """The conventions of that name. Raises UnknownName."""
    if name == "paper":
        return "paper"
    if name == "corrected":
        return "corrected"
    raise unknown("conventions", name, ("corrected", "paper"))


def find(folder: str | Path, names: Sequence[str], source: str) -> Path:
    """The first of these files that the folder holds; where ``folder`` is itself a file of such a name, that file.

    Raises InputError naming the file and ``source``, where to get it.
    """
    folder = Path(folder)
    if folder.is_file():
        if folder.name in names:
            return folder
        raise InputError(f"{folder} is a file; give the folder that holds {names[0]} ({source})")
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; give the folder that holds {names[0]} ({source})")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    raise InputError(f"{folder} has no {names[0]}{others}; get it from {source}")


def read_json(path: Path, source: str) -> Any:
    """The value in a benchmark's JSON file. Raises InputError that says where to get the file."""
    try:
        return parse_json(read_text(path), path.name)
    except InputError as error:
        raise InputError(f"{error} (it comes from {source})") from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Line number (from 1) and stripped text of every line that is not blank. Raises InputError where there is none."""
    lines = [(i, line.strip()) for i, line in enumerate(read_text(path).split("\n"), start=1)]
    found = [(i, line) for i, line in lines if line]
    if not found:
        raise InputError(f"{path.name}: the file is empty; get it again")
    return found


def read_table(path: Path, columns: int) -> list[tuple[int, list[str]]]:
    """Line number and cells of the rows of a tab-separated file with one header line. Raises InputError."""
    rows = [(i, line.split("\t")) for i, line in read_lines(path)[1:]]
    for i, cells in rows:
        if len(cells) < columns:
            raise InputError(f"{path.name}:{i}: has {len(cells)} cells between tabs, needs {columns}; get it again")
    return rows


class Unusable(Exception):
    """A record that is left out, with the reason."""


def couples_of(
    rows: Sequence[tuple[int, Row]], make: Callable[[Sequence[tuple[int, Row]]], Made], about: Callable[[Row], str]
) -> tuple[list[Made], Skipped]:
    """Return what ``make`` makes of every two numbered rows, and those it calls Unusable; ``about`` names the first."""
    made: list[Made] = []
    skipped: list[tuple[str, str]] = []
    for both in (rows[i : i + 2] for i in range(0, len(rows), 2)):
        try:
            made.append(make(both))
        except Unusable as why:
            skipped.append((f"lines {both[0][0]}-{both[-1][0]}{about(both[0][1])}", str(why)))
    return made, tuple(skipped)


def need_pairs(pairs: Iterable[PromptPair], skipped: Skipped, where: str) -> tuple[PromptPair, ...]:
    """The pairs. Raises InputError with the first reason where none could be used."""
    found = tuple(pairs)
    if not found:
        which, why = skipped[0] if skipped else ("the file", "holds no record")
        raise InputError(f"{where}: none of {len(skipped)} records can be used; the first, {which}: {why}")
    return found


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
        reason = first_line(error)
        need = "check the network, or give the authors' files as data=PATH"
        raise InputError(f"task {task}: {name} cannot be loaded from the hub ({reason}); {need}") from None
    return rows


Example = TypeVar("Example", bound=Hashable)
Row = TypeVar("Row")
Made = TypeVar("Made")
TRIES = 1000
"""How often in a row a repeated example is drawn anew before the task is said to have no more."""


def distinct(task: str, size: int, seed: int, draw: Callable[[Random, int], Example]) -> list[Example]:
    """``size`` different examples, the i-th drawn by ``draw(random, i)``, which may balance by i. Same seed, same list.

    Raises InputError for a size below 1, and where ``draw`` keeps giving examples that are there already.
    """
    if size < 1:
        raise InputError(f"task {task}: size is {size}, must be at least 1")
    check_seed(f"task {task}", seed)
    random, found = Random(seed), dict[Example, None]()
    for i in range(size):
        for _ in range(TRIES):
            example = draw(random, i)
            if example not in found:
                break
        else:
            raise InputError(f"task {task}: no more than {i} different pairs can be generated; ask for a smaller size")
        found[example] = None
    return list(found)


def generated(
    name: str,
    size: int,
    seed: int,
    draw: Callable[[Random, int], Example],
    pair: Callable[[Example, str], PromptPair],
    *,
    more: str = "",
) -> Task:
    """The task of ``size`` different examples, each made a pair with an id; ``more`` goes on with the source."""
    drawn = distinct(name, size, seed, draw)
    pairs = tuple(pair(example, f"{i:04d}") for i, example in enumerate(drawn))
    return Task(name=name, pairs=pairs, source=f"generated, seed {seed}{more}")
