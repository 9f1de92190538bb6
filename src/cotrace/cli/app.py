"""The commands and their options; the options of a run are the fields of RunConfig."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, Group, Parameter, Token

from cotrace import __version__
from cotrace.errors import InputError
from cotrace.runs.config import RunConfig

HELP = """Find which components of a language model jointly drive a metric.

Start with `cotrace demo`. Then: `cotrace trace --model MODEL --task TASK`."""
SHOWN = Parameter(group=Group("What is shown", sort_key=5), negative="", show_default=False)


@dataclass(frozen=True, kw_only=True)
class Show:
    """What goes to the screen."""

    quiet: Annotated[bool, SHOWN] = False
    """Say nothing but errors."""
    debug: Annotated[bool, SHOWN] = False
    """Show the traceback of an error."""


Flat = Parameter(name="*")
Options = Annotated[RunConfig, Flat]
Showing = Annotated[Show, Flat]
ConfigFile = Annotated[Path | None, Parameter(group=Group("The run", sort_key=4))]
DryRun = Annotated[bool, Parameter(group=Group("The run", sort_key=4), negative="", show_default=False)]


def build() -> App:
    """The app with all commands."""
    app = App(
        name="cotrace",
        help=HELP,
        version=__version__,
        config=(replay, check_options),
        default_parameter=Parameter(negative=()),
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for command in (demo, trace, compare):
        app.command(command)
    app.command(measure)
    app.command(check)
    app.command(generate)
    app.command(edit)
    app.command(evaluate)
    app.command(_tasks())
    return app


def demo(*, out: str | None = None, show: Showing = Show()) -> None:
    """The whole journey on the model that ships: five searches on one question, compared, in under a minute.

    Parameters
    ----------
    out
        New folder for the results. Default: cotrace-demo, or the next free name.
    """
    from cotrace.cli import demo as module

    module.demo(out, quiet=show.quiet)


def trace(*, options: Options, config: ConfigFile = None, dry_run: DryRun = False, show: Showing = Show()) -> None:
    """Find the best set of components for every size k.

    Parameters
    ----------
    config
        A config.yaml whose fields are used where no option says otherwise; replays a run.
    dry_run
        Say what would be done and what it would cost, and stop.
    """
    from cotrace.cli.answer import answer

    answer(options, ("pursuit",), dry_run=dry_run, quiet=show.quiet)


def compare(*, options: Options, config: ConfigFile = None, dry_run: DryRun = False, show: Showing = Show()) -> None:
    """Put one question to several searches: frontiers in one figure, costs side by side.

    Parameters
    ----------
    config
        A config.yaml whose fields are used where no option says otherwise; replays a run.
    dry_run
        Say what would be done and what it would cost, and stop.
    """
    from cotrace.cli.answer import COMPARED, answer

    answer(options, COMPARED, dry_run=dry_run, quiet=show.quiet)


def measure(
    model: str,
    task: str,
    *,
    data: str | None = None,
    split: str | None = None,
    conventions: Literal["corrected", "paper"] | None = None,
    metric: str | None = None,
    by: str | None = None,
    revision: str | None = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    json: str | None = None,
    show: Showing = Show(),
) -> None:
    """Say what the model does with a task, before any search: base and donor values, flips, by subgroup.

    Parameters
    ----------
    model
        Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace.
    task
        Name of a task (see `cotrace tasks`), or a JSON Lines file of your own pairs.
    data
        File or folder with the task's own data.
    split
        The benchmark's own part, such as dev or test.
    conventions
        How a benchmark is read and scored: corrected or paper.
    metric
        What is measured: a name, package.module:function or path/to/file.py:function. Default: the task's own.
    by
        Fields of the pairs to break the figures down by, separated by commas. Default: group.
    revision
        Branch, tag or commit of the model.
    dtype
        Number type of the weights.
    device
        Where the model runs, such as cpu or cuda:0.
    json
        File to write the figures to.
    """
    from cotrace.cli import measure as module

    config = RunConfig(
        model=model,
        task=task,
        data=data,
        split=split,
        conventions=conventions,
        metric=metric,
        revision=revision,
        dtype=dtype,
        device=device,
    )
    module.measure(config, by=by, json_path=json, quiet=show.quiet)


def check(
    model: str,
    *,
    task: str = "",
    data: str | None = None,
    split: str | None = None,
    conventions: Literal["corrected", "paper"] | None = None,
    sites: tuple[str, ...] = (),
    revision: str | None = None,
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    json: str | None = None,
    row: Annotated[bool, Parameter(negative="")] = False,
    show: Showing = Show(),
) -> None:
    """Show that patches are right on a model: mask 0 changes nothing, mask 1 is the donor, nothing leaks.

    Parameters
    ----------
    model
        Hugging Face id or folder of a decoder; `shipped` is the small model that comes with cotrace.
    task
        Also say whether the pairs of this task line up by token.
    data
        File or folder with the task's own data.
    split
        The benchmark's own part, such as dev or test.
    conventions
        How a benchmark is read and scored: corrected or paper.
    sites
        Sites to check. Default: all that the model has.
    revision
        Branch, tag or commit of the model.
    dtype
        Number type of the weights.
    device
        Where the model runs, such as cpu or cuda:0.
    json
        File to write the figures to.
    row
        Print one row for the table of checkpoints in the documentation instead.
    """
    from cotrace.cli import check as module

    config = RunConfig(
        model=model,
        task=task,
        data=data,
        split=split,
        conventions=conventions,
        sites=sites,
        revision=revision,
        dtype=dtype,
        device=device,
    )
    module.check(config, row=row, json_path=json, quiet=show.quiet)


def generate(
    run: str,
    *,
    k: int,
    prompts: str,
    donor: str = "zero",
    judge: str | None = None,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    search: str | None = None,
    model: str | None = None,
    out: str | None = None,
    show: Showing = Show(),
) -> None:
    """Continue prompts with the base model and with a run's selection edited, side by side.

    Parameters
    ----------
    run
        Folder of a run.
    k
        Size of the selection.
    prompts
        Text file with one prompt a line, or JSON Lines with the field prompt or base.
    donor
        zero, scale=FACTOR, mean=task or vector=FILE.safetensors; others have no value at generated positions.
    judge
        Function that scores texts: package.module:function or path/to/file.py:function, given prompts and texts.
    max_new_tokens
        Most tokens of a continuation.
    temperature
        0 takes the likeliest token each time.
    samples
        Continuations of each prompt.
    seed
        Seed of the drawing; both models draw with the same random numbers.
    batch_size
        Prompts that are continued at once.
    search
        Which search of the run. Default: the first.
    model
        Another model than the run's.
    out
        New file for the continuations. Default: generated-kK.jsonl in the run's folder.
    """
    from cotrace.cli.generate import generated
    from cotrace.editing import Sampling

    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, samples=samples, seed=seed, batch_size=batch_size
    )
    generated(
        run, k, prompts, sampling, donor=donor, judge=judge, search=search, model=model, out=out, quiet=show.quiet
    )


def edit(
    run: str,
    *,
    out: str,
    k: int | None = None,
    donor: str | None = None,
    constraint: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    factors: tuple[float, ...] = (),
    metric: str | None = None,
    neutral: str | None = None,
    second_task: tuple[str, ...] = (),
    lm_eval: tuple[str, ...] = (),
    lm_eval_limit: int | None = None,
    search: str | None = None,
    model: str | None = None,
    show: Showing = Show(),
) -> None:
    """Fold a run's selection into the weights and save a model that plain transformers loads.

    Parameters
    ----------
    run
        Folder of a run.
    out
        New folder for the edited model.
    k
        Size of the selection.
    donor
        zero, scale=FACTOR, mean=task or vector=FILE.safetensors. Default: zero; with a constraint, several factors.
    constraint
        A side effect and the most harm to it, as in neutral<=1%; the strongest edit within is taken. Repeatable.
    sizes
        Sizes to choose from. Default with a constraint: sixteen of the run's.
    factors
        Factors of scale to choose from, from -1 to 2.
    metric
        What is to move, such as stereotype_gap. Default: the run's.
    neutral
        Text file with one passage a line, for the next-token loss. Default: the text that ships.
    second_task
        Task or JSON Lines file that should stay as it is. Repeatable.
    lm_eval
        Tasks of lm-evaluation-harness (pip install 'cotrace[harness]'), before and after. Repeatable.
    lm_eval_limit
        Most examples of each of them.
    search
        Which search of the run. Default: the first.
    model
        Another model than the run's.
    """
    from cotrace.cli.edit import Asked
    from cotrace.cli.edit import edit as run_edit
    from cotrace.editing import Limit

    asked = Asked(
        k=k,
        sizes=sizes,
        donor=donor,
        factors=factors,
        metric=metric,
        limits=tuple(map(Limit.parse, constraint)),
        neutral=neutral,
        second_tasks=second_task,
        harness_tasks=lm_eval,
        harness_limit=lm_eval_limit,
    )
    run_edit(run, asked, out, search=search, model=model, quiet=show.quiet)


def evaluate(
    run: str,
    *,
    level: Literal["quick", "standard", "full"] = "standard",
    k: int | None = None,
    search: str | None = None,
    selection: tuple[str, ...] = (),
    known: tuple[str, ...] = (),
    audit: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    stability: int = 0,
    folds: int = 0,
    text: str | None = None,
    side: tuple[str, ...] = (),
    smallest_p: float | None = None,
    dry_run: DryRun = False,
    show: Showing = Show(),
) -> None:
    """Say how sure the result of a run is: intervals, controls, members, stability, interactions, side effects.

    Parameters
    ----------
    run
        Folder of a finished run.
    level
        How much is asked; each level says its plan and cost first.
    k
        Size of the selection that is judged in detail. Default: the smallest with 90 % of the best training effect.
    search
        Which of the run's searches. Default: the first.
    selection
        File with somebody else's set: component names, or JSON.
    known
        Published circuit to compare with: ioi, greater_than or induction.
    audit
        Judge on the audit pairs: the final figures, once.
    stability
        Search again so many times on parts of the pairs, and without members.
    folds
        Cross-fit over the pairs that were searched, in so many folds.
    text
        Neutral text of your own, one passage a line.
    side
        Further task whose change is measured.
    smallest_p
        Draw as many random sets as a p-value this small needs.
    dry_run
        Say the plan and its cost, and stop.
    """
    from cotrace.cli import evaluate as module

    asked = module.Asked(
        level=level,
        k=k,
        search=search,
        selections=selection,
        circuits=known,
        audit=audit,
        stability=stability,
        folds=folds,
        text=text,
        side_tasks=side,
        smallest_p=smallest_p,
    )
    module.evaluate_run(run, asked, dry_run=dry_run, quiet=show.quiet)


def _tasks() -> App:
    """The ``tasks`` commands."""
    tasks = App(name="tasks", help="List the tasks, or show the pairs of one.")
    tasks.default(list_tasks)
    tasks.command(show_task, name="show")
    return tasks


def list_tasks(*, show: Showing = Show()) -> None:
    """List the tasks: source, licence, metric, sites."""
    from cotrace.cli import tasks

    tasks.list_tasks()


def show_task(
    name: str,
    *,
    data: str | None = None,
    split: str | None = None,
    conventions: str | None = None,
    model: str | None = None,
    most: int = 5,
    show: Showing = Show(),
) -> None:
    """Show the pairs of one task.

    Parameters
    ----------
    name
        Name of a task, or a JSON Lines file.
    data
        File or folder with the task's own data.
    split
        The benchmark's own part, such as dev or test.
    conventions
        How a benchmark is read and scored: corrected or paper.
    model
        Also show how this model's tokenizer cuts the pairs.
    most
        How many pairs to show.
    """
    from cotrace.cli import tasks

    tasks.show_task(name, data=data, split=split, conventions=conventions, model=model, most=most)


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
