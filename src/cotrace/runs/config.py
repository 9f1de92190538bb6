"""RunConfig: every option of a run; which of them make its identity; what the user typed and trusts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from cotrace.components import Mode, layers_of
from cotrace.errors import InputError, unknown
from cotrace.validation import check_seed

if TYPE_CHECKING:
    from cotrace.models import LanguageModel
    from cotrace.prompts import Task

COMMAND: ContextVar[Sequence[str]] = ContextVar("COMMAND", default=())
"""Its words; none where a run is made from Python."""


TRUSTED: ContextVar[bool] = ContextVar("TRUSTED", default=False)


@contextmanager
def trusting(asked: bool) -> Iterator[None]:
    """Models that are loaded inside may bring code of their own, where that is asked for."""
    before = TRUSTED.set(asked)
    try:
        yield
    finally:
        TRUSTED.reset(before)


MODEL = Parameter(group=Group("The model", sort_key=1))
FLAG = Parameter(group=MODEL.group, negative="", show_default=False)
QUESTION = Parameter(group=Group("The question", sort_key=2))
TASK_OPTIONS = Parameter(group=QUESTION.group, name="--task-option", show_default=False)
SITES = Parameter(group=QUESTION.group, show_default=False)
CONSTRAINTS = Parameter(group=QUESTION.group, name="--constraint", show_default=False)
TEMPLATE = Parameter(group=QUESTION.group, name="--template-option", show_default=False)
SEARCH = Parameter(group=Group("The search", sort_key=3))
SEARCHES = Parameter(group=SEARCH.group, name=("--search", "--searches"), show_default=False)
OPTIONS = Parameter(group=SEARCH.group, name="--option", show_default=False)
RUN = Parameter(group=Group("The run", sort_key=4))
JUDGING = Parameter(group=RUN.group, show_default=False)
WORKERS = Parameter(group=Group("Many workers", sort_key=5), show_default=False)
SIZE = Parameter(group=RUN.group, allow_leading_hyphen=True)  # -4GB is refused with its reason, not as no value


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The weights and the data: what a command that looks before any search takes of a run's options."""

    revision: Annotated[str | None, MODEL] = None
    """Branch, tag or commit of the model."""
    dtype: Annotated[Literal["float32", "float64", "bfloat16", "float16"], MODEL] = "float32"
    """Number type of the weights; effects are kept in float32 or better."""
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
    """How a benchmark is read and scored: corrected (the default), or as the paper's code does."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Options of who computes; results are the same whoever does."""

    workers: Annotated[int | None, WORKERS] = None
    """Run the batches on so many Ray workers, each with a replica of the model: the same results, sooner.
    0 and the default: in this process."""
    ray: Annotated[str | None, WORKERS] = None
    """Cluster that the workers run on, as HOST:PORT of its head, or auto. Default: Ray is begun on this machine."""
    worker_gpus: Annotated[float | None, WORKERS] = None
    """GPUs of each worker: 0.25 puts four on one, 2 spreads a model over two. Default: none."""
    max_restarts: Annotated[int | None, WORKERS] = None
    """Workers that may be lost and begun again in all. Default: 10."""

    @property
    def of_workers(self) -> dict[str, Any]:
        """Return the settings of workers; empty where there are none."""
        return {name: value for name, value in _values(self, WorkerOptions).items() if value is not None}


def _values(options: Any, kind: type[Any]) -> dict[str, Any]:
    """The options that a class has, by name."""
    return {field.name: getattr(options, field.name) for field in fields(kind)}


@dataclass(frozen=True, kw_only=True)
class RunConfig(WorkerOptions, SourceOptions):
    """One question put to one model, and the searches that answer it: the one list of a run's options.

    The command line, ``config.yaml``, the documentation and ``LanguageProblem(**config.problem())`` are made from it.
    """

    model: Annotated[str, MODEL]
    """Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace."""
    task: Annotated[str, QUESTION]
    """Name of a task (see `cotrace tasks`), or a file of your own pairs (JSON Lines, CSV, TSV, auto-circuit's JSON)."""
    task_options: Annotated[dict[str, Any], TASK_OPTIONS] = field(default_factory=dict)
    """The task's own settings, as in --task-option.size 100."""
    sites: Annotated[tuple[str, ...], SITES] = ()
    """Components to choose from: kinds of place, such as head_output,mlp_output or head_output@last, components
    (L4.head2, L4.*, L*.head2), or the folder of another run, whose sets are the shortlist (runs/a:20: its best of at
    most 20). Default: the task's own.
    """
    layers: Annotated[str | None, QUESTION] = None
    """Layers to choose from, such as 8..16 (both included) or 0,3,8..16. Default: all."""
    dictionaries: Annotated[str | None, QUESTION] = None
    """Folder, or id on the Hugging Face hub, of sparse autoencoders or transcoders: with them the sites feature (the
    default then) and error can be traced."""
    dictionaries_of: Annotated[str | None, QUESTION] = None
    """The model that they were trained on, where it is another name for this one or the model that it was made from."""
    donors: Annotated[str | None, QUESTION] = None
    """Where the values that are swapped in come from, such as counterfactual, noise=0.6, mean=task or vector=FILE.
    Default: the task's own."""
    metric: Annotated[str | None, QUESTION] = None
    """Metric, such as log_odds. Default: the task's own."""
    mode: Annotated[Mode, QUESTION] = "swap"
    """swap: the chosen take the donor's value. keep: the chosen keep running, all others take it."""
    direction: Annotated[str | None, QUESTION] = None
    """Which way the metric should move: maximise, minimise, or target=0.5 to come near a value of it.
    Default: a gap is minimised; else the way in which swapping everything moves it, where the pairs show one."""
    align: Annotated[Literal["exact", "ends", "spans"], QUESTION] = "exact"
    """Pairs whose token lengths differ: refused (exact), aligned at both ends, or at the spans that they name."""
    roles: Annotated[tuple[str, ...], SITES] = ()
    """Split each component by position, such as last,subject or a span that the pairs name. Default: all positions."""
    positions: Annotated[Literal["prompt", "prompt+answer"], QUESTION] = "prompt"
    """Positions at which donors act: the prompt, or the answers as well."""
    prepend_bos: Annotated[Literal["auto", "yes", "no"], QUESTION] = "auto"
    """A token for the beginning in front of prompts: as the tokenizer does, always, or never."""
    constraints: Annotated[tuple[str, ...], CONSTRAINTS] = ()
    """Constraints, by commas: TASK:METRIC<=AMOUNT (may rise by so much), >=-AMOUNT (may fall), +-AMOUNT (either), as in
    'neutral<=1%' (perplexity of a neutral text) or 'demo_agreement:accuracy+-0.01'.
    """
    plus: Annotated[tuple[str, ...], SITES] = ()
    """Further questions over the same components, whose values are added with a weight: WEIGHT*TASK:METRIC, by commas,
    with :maximise or :minimise behind it. TASK is a name, a file, or `own`, the run's own pairs."""
    template_options: Annotated[dict[str, Any], TEMPLATE] = field(default_factory=dict)
    """Arguments of the chat template, as in --template-option.enable_thinking false."""
    holdout: Annotated[float, QUESTION] = 0.3
    """Share of the pairs that the search never sees."""
    audit: Annotated[float, QUESTION] = 0.0
    """A third share, which nothing touches until `cotrace evaluate RUN --audit` gives the final figures, once."""
    split_by: Annotated[str | None, QUESTION] = None
    """Field whose pairs of one value stay on one side of the split. Default: the pairs' split_group."""

    search_pairs: Annotated[int | None, SEARCH] = None
    """Search on this many training pairs only, drawn by the seed; the result is of all. Default: all."""
    searches: Annotated[tuple[str, ...], SEARCHES] = ()
    """Search methods, separated by commas. Default: pursuit; for compare pursuit,pgbct,greedy,topk,random."""
    max_size: Annotated[int | None, SEARCH] = None
    """Largest number of components k to look for; up to 256 every k has a set. Default: all N."""
    cost_weights: Annotated[str | None, SEARCH] = None
    """Cost of one component of each site, such as feature=0.1,head_output=1, or balanced (sites cost alike): pursuit
    then also looks for what is best for its cost."""
    search_options: Annotated[dict[str, dict[str, Any]], OPTIONS] = field(default_factory=dict)
    """A search's own settings, as in --option.pgbct.l1 0.01 or --option.random.draws 20."""

    judge_pairs: Annotated[int | Literal["all"] | None, JUDGING] = None
    """Held-out pairs that judge, at most so many, in whole groups drawn by the seed; or all. Default: 1000."""
    evaluation: Annotated[Literal["none", "quick", "standard", "full"], RUN] = "quick"
    """How closely the result is judged on held-out pairs: quick costs at most 143 forward-equivalents."""
    seed: Annotated[int, RUN] = 0
    """Seed of the holdout and of the searches that draw."""
    batch_tokens: Annotated[int | None, RUN] = None
    """Most tokens in one forward pass; less takes less memory. Default: chosen by the model's size."""
    packing: Annotated[Literal["measured", "packed", "plain"], RUN] = "packed"
    """Several examples and answers in a row where the model allows (packed), each in its own (plain), or what is
    clearly quicker in a trial (measured, for models below a million parameters); the choice stands in config.yaml.
    """
    memory: Annotated[str | float | None, SIZE] = None
    """Most memory for donor values and kept prefixes, such as 4GB, 512MiB or 0.5 of what is free; the rest lies on
    disk, or is computed anew. A size also bounds what a forward pass holds. Default: half of what is free.
    """
    checkpointing: Annotated[Literal["auto", "on", "off"], RUN] = "auto"
    """Compute activations again in the backward pass: when memory runs out (auto), always, or never."""
    threads: Annotated[int | None, RUN] = None
    """Processor threads. Default: OMP_NUM_THREADS; else one for small models, which more would slow down, and one per
    core that is idle for others."""
    checkpoint_every_s: Annotated[float | None, RUN] = None
    """Seconds between checkpoints, which `cotrace resume` goes on from; 0 writes one at every step.
    Default: 10, or longer where one takes long to write."""
    out: Annotated[str | None, RUN] = None
    """New folder for the results. Default: the next free one under runs/."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", _split(self.sites))
        object.__setattr__(self, "searches", _split(self.searches))
        object.__setattr__(self, "roles", _split(self.roles))
        object.__setattr__(self, "constraints", _split(self.constraints))
        object.__setattr__(self, "plus", _split(self.plus))
        object.__setattr__(self, "task_options", _literals(self.task_options))
        object.__setattr__(self, "template_options", _literals(self.template_options))
        own = {search: _literals(settings) for search, settings in self.search_options.items()}
        object.__setattr__(self, "search_options", own)
        layers_of(self.layers)
        directions = ("maximise", "minimise")
        if self.direction not in (None, *directions) and not str(self.direction).startswith("target="):
            raise unknown("direction", self.direction, (*directions, "target=NUMBER"))
        if self.dictionaries_of and not self.dictionaries:
            raise InputError("dictionaries_of says what dictionaries were trained on, and none are given: give both")
        if not 0 <= self.holdout < 1:  # not a number fails too
            raise InputError(f"holdout is {self.holdout}: give a share of at least 0 and below 1")
        if not 0 <= self.audit < 1:
            raise InputError(f"audit is {self.audit}: give a share of at least 0 and below 1")
        if self.max_size is not None and self.max_size < 1:
            raise InputError(f"max size {self.max_size} is outside 1..N: ask for at least 1 component")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"batch_tokens is {self.batch_tokens}: give at least 1")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}: give at least 1")
        self._check_workers()
        check_seed("the run", self.seed)
        self._check_pairs()
        if self.checkpoint_every_s is not None and not self.checkpoint_every_s >= 0:
            raise InputError(f"checkpoint_every_s is {self.checkpoint_every_s}: give 0 seconds or more")

    def _check_pairs(self) -> None:
        """Raise InputError where no pair would be searched, or none judge."""
        if self.search_pairs is not None and self.search_pairs < 1:
            raise InputError(f"search_pairs is {self.search_pairs}: give at least 1 pair to search on")
        if isinstance(self.judge_pairs, int) and self.judge_pairs < 1:
            raise InputError(f"judge_pairs is {self.judge_pairs}: give at least 1 pair, or all")

    def _check_workers(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise InputError(f"workers is {self.workers}: give 0 for none, or how many")
        for option in ("ray", "worker_gpus", "max_restarts"):
            if getattr(self, option) is not None and not self.workers:
                raise InputError(f"{option} is of workers, and none are asked for: give workers too, or leave it out")

    @property
    def donor_words(self) -> str:
        """The donors for people: a run's config.yaml always names them, one that was written by hand need not."""
        return self.donors or "the task's own"

    def taken_by(self, function: Callable[..., Any]) -> dict[str, Any]:
        """The options for which a function or class has a parameter of the same name."""
        names = signature(function).parameters
        return {name: value for name, value in _values(self, type(self)).items() if name in names}

    def problem(self, model: LanguageModel | None = None, task: Task | None = None) -> dict[str, Any]:
        """The arguments of the run's problem: ``LanguageProblem(**config.problem())``.

        ``model`` and ``task``: loaded as the options name them where they are not given. Raises CotraceError.
        """
        from cotrace.problem.language import LanguageProblem

        model = self.load_model() if model is None else model
        task = self.suited_task(self.load_task(), model) if task is None else task
        own = self.taken_by(LanguageProblem) | {"model": model, "task": task, "sites": list(self.sites_of(task))}
        del own["dictionaries"]  # they are in the model
        return own | {"roles": self.roles or ("all",), "template_arguments": self.template_options}

    def load_model(self) -> LanguageModel:
        """The model with its dictionaries. Raises ModelError, InputError."""
        from cotrace import models
        from cotrace.dictionaries import load_dictionaries

        found = self.dictionaries and load_dictionaries(self.dictionaries, trained_on=self.dictionaries_of)
        own = self.taken_by(models.load_model) | {"trust_remote_code": self.is_trusted, "gguf_file": self.gguf}
        model = models.load_model(self.model, **own)
        return found.on(model) if found else model

    def model_config(self) -> Any:
        """The model's own configuration; its weights are not loaded. Raises ModelError."""
        from cotrace.models import model_config

        trusted = self.is_trusted
        return model_config(self.model, revision=self.revision, trust_remote_code=trusted, gguf_file=self.gguf)

    @property
    def is_trusted(self) -> bool:
        """Whether the model's own code may be run: asked for here, or by who opens the run again."""
        return self.trust_remote_code or TRUSTED.get()

    def load_task(self) -> Task:
        """The task. Raises InputError."""
        from cotrace import tasks

        own = {"data": self.data, "split": self.split, "conventions": self.conventions}
        try:
            return tasks.load(self.task, **own, **self.task_options)
        except TypeError as error:
            raise InputError(f"task {self.task}: {error}; check the values given with --task-option") from None

    @property
    def leaves_text_to_model(self) -> bool:
        """Whether the data are the one of the neutral texts that ship which the model knows better."""
        return self.task == "text" and self.data is None

    def suited_task(self, task: Task, model: LanguageModel) -> Task:
        """The task; where the model chooses among the neutral texts that ship, the one that suits it."""
        from cotrace import tasks

        return tasks.text(model=model, **self.task_options) if self.leaves_text_to_model else task

    def sites_of(self, task: Task) -> Sequence[str]:
        """The sites asked for; where none are, features if there are dictionaries, else the task's own."""
        return self.sites or (("feature",) if self.dictionaries else task.sites)

    def options_of(self, search: str) -> dict[str, Any]:
        """The settings meant for this search."""
        return dict(self.search_options.get(search, {}))


def _split(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, those that were written with commas taken apart."""
    return tuple(part.strip() for name in names for part in name.split(",") if part.strip())


def _literals(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: literal(value) for name, value in settings.items()}


def literal(value: Any) -> Any:
    """A setting that came as text, as what it says: a number, true, false, none, several with commas, or text."""
    if isinstance(value, list):
        return tuple(map(literal, value))
    if not isinstance(value, str):
        return value
    if "," in value:
        return tuple(literal(part.strip()) for part in value.split(","))
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


IDENTITY_WORKERS = tuple(field.name for field in fields(WorkerOptions))
"""Fields that say who computes: results are the same whoever does."""
NOT_IN_IDENTITY = (
    *("out", "threads", "batch_tokens", "packing", "checkpoint_every_s", "trust_remote_code", "offload_folder"),
    *IDENTITY_WORKERS,
)
"""Fields that do not change the question."""


def identity(config: RunConfig, names: Iterable[str] | None = None) -> str:
    """Hash of the question: a checkpoint of another one is not taken up.

    ``names``: the options that there were when a run was begun, by its config.yaml: those that came since have their
    defaults, which do what was done before. Default: all.
    """
    known = set(NOT_IN_IDENTITY) if names is None else set(NOT_IN_IDENTITY) | set(_values(config, RunConfig)) - {*names}
    asked = {name: value for name, value in asdict(config).items() if name not in known}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
