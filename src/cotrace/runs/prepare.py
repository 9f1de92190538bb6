"""Preparing a run: its problem and searches; every name is checked before anything large is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import psutil
import torch
from pydantic import TypeAdapter, ValidationError

from cotrace import search, shipped
from cotrace.batches import check_counterfactual, check_role
from cotrace.components import OF_DICTIONARIES, ComponentSpace, Site
from cotrace.donors import Noise, check_sites, donor_file, donor_source
from cotrace.errors import InputError, unknown
from cotrace.metrics import Answers, AnyMetric, metric_named
from cotrace.models import LanguageModel
from cotrace.models.places import entries_of, named_space, shortlist
from cotrace.problem import Problem
from cotrace.problem.full_swap import NoDirection
from cotrace.problem.language import LanguageProblem
from cotrace.problem.passes import CGROUP, check_memory
from cotrace.problem.scorer import executing
from cotrace.problem.set_metric import aim
from cotrace.prompts import Task
from cotrace.prompts.task import groups, split_parts
from cotrace.runs.config import RunConfig
from cotrace.runs.forecast import outlook
from cotrace.runs.goal import goal_of, located, sides_of
from cotrace.runs.result_files import StoredRun
from cotrace.search import Search
from cotrace.selfcheck import ensure
from cotrace.tasks.catalogue import is_file
from cotrace.text.files import refusal

if TYPE_CHECKING:
    from cotrace.workers import Workers

MOST_THREADS, THREADS_PER_PROCESSOR = 256, 4
SMALL_PARAMETERS = 10_000_000
LOOK_S = 0.2
"""Seconds for which it is looked how busy the processors are."""
PATH_POINTS = 8
"""Penalties that pgbct tries where the user gives none, so that it has a frontier to show."""


@dataclass(frozen=True)
class Prepared:
    """All that a run needs, ready to search."""

    config: RunConfig
    """The configuration with defaults and local paths filled in."""
    task: Task
    model: LanguageModel
    problem: LanguageProblem
    searches: tuple[Search, ...]
    other: Problem | None = None
    """The sum or the constrained problem that is searched in place of ``problem``."""

    workers: Workers | None = None
    """Workers that run the batches; None where this process does."""
    kept: bool = False
    """Whether the workers go on when this run has ended."""

    @property
    def goal(self) -> Problem:
        """Return the goal that is searched and judged."""
        return self.other or self.problem

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        if self.workers is not None and not self.kept:
            self.workers.close()


def prepare(
    config: RunConfig,
    searches: Sequence[str] = ("pursuit",),
    *,
    check: Callable[[Task], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Load what the configuration names; ``searches`` is used where it names none. Raises CotraceError.

    ``check`` is called with the data before the model is loaded, unless it is the model that chooses them. ``say`` is
    told what is done next, first of all what the run will do and how long it may take.
    """
    config = settled(config, searches)
    built = tuple(build_search(config, name) for name in config.searches)
    if config.cost_weights and not any("cost_weights" in one.settings for one in built):
        raise InputError(
            f"cost weights are taken by pursuit, and the run is of {', '.join(config.searches)}: name it too, or leave "
            "them out"
        )
    check_memory(config.memory)
    check_threads(config.threads)
    if config.workers:
        check_workers(config)
    task = config.load_task()
    config = replace(config, donors=config.donors or task.donors)
    check_names(config, task)
    if check is not None and not config.leaves_text_to_model:
        check(task)
    sides = sides_of(config, task)
    if (ahead := outlook(config, task, built)) is not None:
        say(ahead.words)
    say(f"loading {config.model}")
    model = config.load_model()
    use_threads(config, model)
    task = config.suited_task(task, model)
    check_size(config, len(named_space(model, config.sites_of(task), config.roles or ("all",), config.layers)))
    workers = employ(config)
    with ExitStack() as undo, nullcontext() if workers is None else executing(workers):
        kept = CREW.get() is not None
        undo.callback(nothing if workers is None or kept else workers.close)
        say(f"computing donor values and base scores of {len(task):,} pairs")
        problem = pose(config, model, task)
        config = replace(config, packing=problem.manner["packing"], threads=torch.get_num_threads())  # for replays
        check_size(config, len(problem.space))  # of a dictionary only the features that are active count
        say("checking that patches are right on this model")
        ensure(problem.model, problem.space.sites)
        goal = goal_of(config, problem, sides)
        undo.pop_all()
    return Prepared(config, task, model, problem, built, None if goal is problem else goal, workers, kept)


def nothing() -> None:
    """There are no workers to end."""


def check_workers(config: RunConfig) -> None:
    """Refuse workers that cannot be had, before anything is loaded. Raises InputError, WorkersError."""
    from cotrace.workers.cluster import MAX_RESTARTS, Needs, check_address, check_asked, check_resources, ray_module

    restarts = MAX_RESTARTS if config.max_restarts is None else config.max_restarts
    check_asked(config.workers or 0, config.worker_gpus or 0, restarts)
    ray = ray_module()
    if config.ray is not None and not ray.is_initialized():
        check_address(config.ray)
    elif config.worker_gpus and not ray.is_initialized():  # Ray will be begun here, with the GPUs of this machine
        needs = Needs(config.workers or 1, 1, config.worker_gpus)
        check_resources({"GPU": float(torch.cuda.device_count()), "CPU": float("inf")}, needs)


def employ(config: RunConfig) -> Workers | None:
    """The workers that the configuration asks for; None where there are none. Raises InputError, WorkersError."""
    if not config.workers:
        return None
    from cotrace.workers import Workers

    asked = (config.workers, config.ray, config.worker_gpus, config.max_restarts, torch.get_num_threads())
    crew = CREW.get()
    if crew is not None and asked in crew and crew[asked].is_open:
        return crew[asked]
    more = {} if config.max_restarts is None else {"max_restarts": config.max_restarts}
    if crew is not None:
        _dismiss(crew)
    made = Workers(config.workers, ray_address=config.ray, gpus=config.worker_gpus or 0, **more)
    if crew is not None:
        crew[asked] = made
    return made


CREW: ContextVar[dict[Any, Workers] | None] = ContextVar("crew", default=None)
"""Workers shared by several runs, by their settings; None where each run has its own."""


@contextmanager
def one_crew() -> Iterator[None]:
    """The runs inside share their workers, which end with the last of them."""
    crew: dict[Any, Workers] = {}
    before = CREW.set(crew)
    try:
        yield
    finally:
        CREW.reset(before)
        _dismiss(crew)


def _dismiss(crew: dict[Any, Workers]) -> None:
    for workers in crew.values():
        workers.close()
    crew.clear()


def check_names(config: RunConfig, task: Task) -> None:
    """Refuse what no model could mend, before one is loaded. Raises InputError, UnknownName, UnsupportedSite."""
    entries = entries_of(config.sites_of(task))
    sites = dict.fromkeys(site for entry in entries for site in entry.sites)
    if bool(config.dictionaries) == OF_DICTIONARIES.isdisjoint(sites):
        raise InputError(
            "dictionaries are given, and no site is feature or error: name it in sites, or leave them out"
            if config.dictionaries
            else "the sites feature and error are parts of a dictionary: give one as well (--dictionaries FOLDER)"
        )
    aim(check_metric(config.metric, task), config.direction, config.mode)
    source = donor_source(config.donors or task.donors)
    check_sites(source, ComponentSpace.build({site: {0: 1} for site in sites}), config.align)
    if config.align != "exact" and not source.paired:
        raise InputError(
            f"align={config.align!r} says how a prompt and its counterfactual are aligned, and donors={source.name!r} "
            "takes no values from one: leave align out"
        )
    if config.template_options and not any(pair.messages or pair.counterfactual_messages for pair in task.pairs):
        raise InputError(
            "template_options are told to the template of chats, and no pair has 'messages'; leave them out"
        )
    for pair in task.pairs if source.paired else ():
        check_counterfactual(pair)
    named = [entry.role for entry in entries if entry.role]
    for role in (*config.roles, *named, *([source.role] if isinstance(source, Noise) else [])):
        check_role(task.pairs, role)
    parts = 1 + (config.holdout > 0) + (config.audit > 0)
    if len(set(groups(task.pairs, config.split_by))) < parts:  # more than that may be needed, which the split says
        split_parts(task.pairs, config.holdout, config.seed, audit=config.audit, by=config.split_by)


def check_metric(metric: str | None, task: Task) -> AnyMetric:
    """The metric asked for, or the task's own. Raises UnknownName, InputError where pairs lack what it needs."""
    found = metric_named(metric or task.metric)
    found.check(Answers.of(task.pairs, torch.float64))
    return found


def settled(config: RunConfig, searches: Sequence[str]) -> RunConfig:
    """The configuration with searches filled in and local paths that hold from any working folder."""
    data = None if config.data is None else _absolute(config.data)
    dictionaries = None if config.dictionaries is None else _absolute(config.dictionaries)
    names = config.searches or tuple(searches)
    for listed in (names, config.sites):
        if len(set(listed)) < len(listed):
            raise InputError(f"{', '.join(listed)}: name each once")
    for name in config.search_options:
        if name not in names:
            raise InputError(f"search option {name!r}: the searches of this run are {', '.join(names)}")
    config = replace(config, constraints=tuple(map(located, config.constraints)), plus=tuple(map(located, config.plus)))
    metric = None if config.metric is None else _absolute_file(config.metric)
    donors = None if config.donors is None else _absolute_tensors(config.donors)
    task = _absolute(config.task) if is_file(config.task) else config.task
    offload = None if config.offload_folder is None else str(Path(config.offload_folder).resolve())
    model = _absolute(config.model)
    sites = listed_sites(config.sites)
    config = replace(config, searches=names, model=model, task=task, data=data, donors=donors, sites=sites)
    return replace(config, metric=metric, offload_folder=offload, dictionaries=dictionaries)


def listed_sites(sites: Sequence[str]) -> tuple[str, ...]:
    """Sites as they are named; for the folder of a run the components of its sets. Raises InputError, DamagedRun."""
    return tuple(name for site in sites for name in _listed(site))


def _listed(site: str) -> list[str]:
    """Return the entries named; for a run's folder the members of its sets, or of its best of at most k (``RUN:k``)."""
    folder, colon, k = site.rpartition(":") if site.rpartition(":")[2].isdecimal() else (site, "", "")
    if site in list(Site) or not ("/" in folder or Path(folder).is_dir()):
        return [site]
    found = StoredRun.read(folder).frontier()
    return [str(member) for member in shortlist(found.best(int(k)) if colon else found)]


def _absolute_file(metric: str) -> str:
    """A metric of the user's own, as file.py:function, with a path that holds from any working folder."""
    path, colon, function = metric.rpartition(":")
    return f"{_absolute(path)}:{function}" if colon and path.endswith(".py") else metric


def _absolute_tensors(donors: str) -> str:
    """Tensors of the user's own, as vector=FILE or noise=FILE, with a path that holds from any working folder."""
    found = donor_file(donors)
    return donors if found is None else f"{found[0]}={_absolute(found[1])}"


def _absolute(value: str) -> str:
    return str(Path(value).resolve()) if value != shipped.NAME and Path(value).exists() else value


def build_search(config: RunConfig, name: str) -> Search:
    """The search of that name with this run's max size and seed and its own settings. Raises InputError."""
    if name not in search.SEARCHES:
        raise unknown("search", name, search.SEARCHES)
    kinds = get_type_hints(search.SEARCHES[name])
    own = {key: checked(name, key, value, kinds.get(key, Any)) for key, value in config.options_of(name).items()}
    if name == "pgbct" and not {"l1", "l2", "path"} & own.keys():
        own["path"] = PATH_POINTS
    common: dict[str, Any] = {"max_size": config.max_size, "seed": config.seed}
    common |= {} if config.cost_weights is None else {"cost_weights": config.cost_weights}
    return search.named(name, **{key: value for key, value in common.items() if key in kinds} | own)


def checked(name: str, key: str, value: Any, kind: Any) -> Any:
    """The setting, where it is of the kind that the search declares. Raises InputError."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{name}: {key}: {refusal(error)[1]}; see --option.{name}.{key}") from None


def check_threads(count: int | None) -> None:
    """Raise InputError for more threads than a machine like this can begin, with room for runs of a larger one."""
    most = max(MOST_THREADS, THREADS_PER_PROCESSOR * (os.cpu_count() or 1))
    if count is not None and count > most:
        raise InputError(f"threads is {count}: this machine has {os.cpu_count()} processors; give at most {most}")


def use_threads(config: RunConfig, model: LanguageModel) -> None:
    """Set the process's threads, unless the environment does: those of a small model wait longer than they work."""
    if config.threads or "OMP_NUM_THREADS" not in os.environ:
        small = model.module.num_parameters() < SMALL_PARAMETERS
        torch.set_num_threads(config.threads or (1 if small else free_threads(torch.get_num_threads())))


def free_threads(most: int) -> int:
    """Threads for which there is a processor: those that others keep busy, or that this process may not use, are left.

    Two threads that share one processor wait for each other: they take many times one's time.
    """
    busy: list[float] = psutil.cpu_percent(LOOK_S, percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    idle = sum(1 - busy[i] / 100 for i in mine if i < len(busy))
    return max(1, min(most, round(idle), _quota(CGROUP / "cpu.max", most)))


def _quota(file: Path, most: int) -> int:
    """Processors whose time a control group grants; ``most`` where it names no bound."""
    try:
        granted, period = file.read_text().split()
    except (OSError, ValueError):
        return most
    return int(granted) // int(period) if granted.isdigit() else most


def pose(config: RunConfig, model: LanguageModel, task: Task) -> LanguageProblem:
    """The problem: model, pairs, donors and metric. Raises CotraceError, NoDirection where a run could search none."""
    problem = LanguageProblem(**config.problem(model, task))
    try:
        _ = problem.direction
    except NoDirection as error:
        raise error.for_command_line from None
    return problem


def check_size(config: RunConfig, n: int) -> None:
    """Refuse a max size above N before the first step. Raises InputError."""
    if config.max_size is not None and config.max_size > n:
        raise InputError(f"max size {config.max_size} is outside 1..{n}: the space has {n} components")
