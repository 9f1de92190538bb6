"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from cotrace.errors import InputError
from cotrace.runs.config import RunConfig, SourceOptions, WorkerOptions, trusting

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

Switch = Annotated[bool, Parameter(negative="", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Options of those who open a run again."""

    trust_remote_code: Switch = False
    """Run the code that comes with the run's model, which no file may ask for. Only for code that you have read."""

    def trusting(self) -> AbstractContextManager[None]:
        """The run's model may bring code of its own inside, where that is asked for."""
        return trusting(self.trust_remote_code)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How a run is judged."""

    level: Literal["quick", "standard", "full"] = "standard"
    """How much is asked; each level says its plan and cost first."""
    k: int | None = None
    """Size of the selection that is judged in detail. Default: the smallest with 90 % of the best training effect."""
    search: str | None = None
    """Which of the run's searches. Default: the first."""
    selection: Names = ()
    """File with somebody else's set: component names, or JSON. Several by commas."""
    known: Names = ()
    """Published circuits to compare with, by commas: ioi, greater_than, induction."""
    audit: Switch = False
    """Judge on the audit pairs: the final figures, once."""
    stability: int = 0
    """Search again so many times on parts of the pairs, and without members."""
    folds: int = 0
    """Cross-fit over the pairs that were searched, in so many folds."""
    text: str | None = None
    """Neutral text of your own, one passage a line. Default: of the two that ship the one that the model knows
    better."""
    side: Names = ()
    """Further tasks whose change is measured, by commas."""
    smallest_p: float | None = None
    """Draw as many random sets as a p-value this small needs."""
    judge_pairs: Annotated[int | Literal["all"] | None, Parameter(show_default=False)] = None
    """Held-out pairs that judge, at most so many, in whole groups drawn by the seed; or all. Default: the run's."""
    every_size: Switch = False
    """Test every size of the frontier against random sets, not some: every k has an adjusted p-value."""
    intervals: Switch = False
    """Refuse where there are too few pairs for intervals, rather than leave them out."""

    def __post_init__(self) -> None:
        if self.stability < 0 or self.folds < 0 or self.folds == 1:
            raise InputError("give --stability at least 1 run and --folds at least 2")
        if isinstance(self.judge_pairs, int) and self.judge_pairs < 1:
            raise InputError(f"--judge-pairs is {self.judge_pairs}: give at least 1 pair, or all")
        if self.smallest_p is not None and not 0 < self.smallest_p < 1:
            raise InputError(f"--smallest-p is {self.smallest_p:g}: give a p-value between 0 and 1")

    @property
    def pairs(self) -> Literal["heldout", "audit"]:
        """The pairs that judge: ``audit`` or ``heldout``."""
        return "audit" if self.audit else "heldout"


@dataclass(frozen=True, kw_only=True)
class Carrying:
    """How a run's set is judged elsewhere."""

    k: int | None = None
    """Size of the selection. Default: the smallest with 90 % of the best training effect."""
    search: str | None = None
    """Which of the run's searches. Default: the first."""
    data: str | None = None
    """File or folder with the data of a task that is named."""
    metric: str | None = None
    """Metric on a task that is named. Default: that task's own."""
    direction: str | None = None
    """Which way the target's metric should move: maximise or minimise. Default: as swapping everything moves it
    there."""
    controls: int = 39
    """How many random sets of the same composition it is compared with."""

    def __post_init__(self) -> None:
        if self.controls < 1:
            raise InputError(f"--controls is {self.controls}: give at least 1 random set")


@dataclass(frozen=True, kw_only=True)
class Editing:
    """The edit, and how it is judged."""

    k: int | None = None
    """Size of the selection."""
    donor: str | None = None
    """zero, scale=FACTOR, mean=task or vector=FILE.safetensors. Default: zero; with a constraint, several factors."""
    constraint: Names = ()
    """A side effect and the most harm to it, as in neutral<=1%; the strongest edit within is taken. Several by
    commas."""
    sizes: Whole = ()
    """Sizes to choose from, by commas. Default with a constraint: sixteen of the run's."""
    factors: Real = ()
    """Factors of scale to choose from, from -1 to 2, by commas."""
    metric: str | None = None
    """Metric that is to move, such as stereotype_gap. Default: the run's."""
    neutral: str | None = None
    """Text file with one passage a line, for the next-token loss. Default: of the two texts that ship the one that the
    model knows better."""
    second_task: Names = ()
    """Task or JSON Lines file that should stay as it is. Several by commas."""
    lm_eval: Names = ()
    """Tasks of lm-evaluation-harness (pip install 'cotrace[harness]'), before and after. Several by commas."""
    lm_eval_limit: int | None = None
    """Most examples of each of them."""

    def check(self) -> None:
        """Raise InputError for options that do not go together."""
        if self.k is not None and self.sizes:
            raise InputError("give either --k or --sizes, not both")
        if self.donor is not None and self.factors:
            raise InputError("give either --donor or --factors, not both")
        one_size, one_donor = self.k or len(self.sizes) == 1, self.donor is not None or len(self.factors) == 1
        if self.constraint and one_size and one_donor:
            raise InputError(
                "--constraint looks for the strongest edit, and one size and one donor leave nothing to choose: leave "
                "--constraint out, or give several --sizes or --factors"
            )
        if self.lm_eval_limit is not None and not self.lm_eval:
            raise InputError("--lm-eval-limit bounds the tasks of --lm-eval: name one, or leave it out")
        if self.k is None and not self.sizes and not self.constraint:
            raise InputError(
                "say which selection: --k 10, or --constraint 'neutral<=1%' to have the strongest looked for"
            )


OPENED, JUDGED, CARRIED, EDITED = Opening(), Judging(), Carrying(), Editing()
"""Defaults of the options of a run that is opened again, judged, carried over and edited."""

Flat = Parameter(name="*")
Handed = Annotated[WorkerOptions, Flat]
Sourced = Annotated[SourceOptions, Flat]
Options = Annotated[RunConfig, Flat]
Showing = Annotated[Show, Flat]
Saying = Annotated[Said, Flat]
"""Option of commands whose figures go to a file as well: their --json names it."""
ConfigFile = Annotated[Path | None, Parameter(group=Group("The run", sort_key=4))]
DryRun = Annotated[bool, Parameter(group=Group("The run", sort_key=4), negative="", show_default=False)]
Opens = Annotated[Opening, Flat]
Judged = Annotated[Judging, Flat]
Carried = Annotated[Carrying, Flat]
Edits = Annotated[Editing, Flat]


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
