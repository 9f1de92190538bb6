"""Commands that search nothing: tasks, check and measure, and verify, diff and cite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import transformers

from cotrace import tasks
from cotrace.batches import Align
from cotrace.cli.console import STDOUT, Screen, check_figures, own_threads, quiet_libraries, write_figures
from cotrace.cli.display import steps
from cotrace.cli.options import in_options
from cotrace.cli.replies import TaskInfoReply, schemas
from cotrace.errors import InputError, NotReproduced
from cotrace.evaluation.measurement import measure as measure_task
from cotrace.models.places import entries_of
from cotrace.prompts import PromptPair, Task
from cotrace.prompts.pair import chat_words, values_of
from cotrace.prompts.pair_files import record_of
from cotrace.results import Table
from cotrace.runs.addenda import check_same_data
from cotrace.runs.citation import cite
from cotrace.runs.config import RunConfig
from cotrace.runs.difference import difference
from cotrace.runs.prepare import check_metric, listed_sites, prepare, use_threads
from cotrace.runs.result_files import StoredRun
from cotrace.runs.verification import check_consistent, check_examples, check_hashes, verify
from cotrace.selfcheck import CheckFailed, CheckReport, check_reading
from cotrace.selfcheck import check as check_model
from cotrace.selfcheck.finding import HEADS
from cotrace.text.escape import visible


def pair_lines(pair: PromptPair) -> list[str]:
    """A pair in a few lines: both prompts, and the answers with the target marked."""
    answers = [f"{answer!r} (target)" if i == pair.target else repr(answer) for i, answer in enumerate(pair.answers)]
    base = pair.base or chat_words(pair.messages)
    other = pair.counterfactual or chat_words(pair.counterfactual_messages)
    lines = [f"  base             {base} ...", *([f"  counterfactual   {other} ..."] if other else [])]
    return [*lines, f"  answers          {' / '.join(answers)}"]


def list_tasks(as_json: bool = False) -> None:
    """List every task with its question, size, metric, source and licence."""
    screen, width = Screen(as_json=as_json), max(map(len, tasks.TASKS)) + 2
    for info in tasks.TASKS.values():
        facts = [f"pairs: {info.size}", info.metric, f"split {' or '.join(info.splits)}" if info.splits else ""]
        facts += [info.source, f"licence {info.licence}", f"needs --data: {info.data}" if info.needs_data else ""]
        screen.say(f"{info.name:{width}}{info.about}")
        screen.say(f"{'':{width}}{'; '.join(filter(None, facts))}", style="dim")
    names = TaskInfoReply.model_fields
    screen.data("tasks", lambda: {"tasks": [{n: getattr(info, n) for n in names} for info in tasks.TASKS.values()]})
    screen.say("\nLook at one with: cotrace tasks show NAME [--data DIR] [--model MODEL]")


def show_task(
    name: str,
    *,
    data: str | None,
    split: str | None,
    conventions: str | None,
    model: str | None,
    most: int,
    align: Align,
    as_json: bool = False,
) -> None:
    """The first pairs of a task; with a model, their tokens too. Raises CotraceError."""
    if most < 1:
        raise InputError(f"most is {most}: ask for at least 1 pair")
    if model is None and align != "exact":
        raise InputError(f"--align {align} says how prompts cut by a tokenizer are aligned: give --model as well")
    task = tasks.load(name, data=data, split=split, conventions=conventions)
    screen = Screen(as_json=as_json)
    screen.say(f"{task.name}: {len(task)} pairs, judged by {task.metric} ({task.score} of the answer's tokens)")
    _say_skipped(task, screen)
    for pair in task.pairs[:most]:
        screen.say(f"\n{pair.id}")
        for line in pair_lines(pair):
            screen.say(line)
    table = None if model is None else _preview(task, model, most, align)
    if table is not None:
        screen.say(table)
    screen.data("tasks show", lambda: _shown(task, most, table))


def _say_skipped(task: Task, screen: Screen) -> None:
    if task.skipped:
        which, why = task.skipped[0]
        screen.say(f"{len(task.skipped)} records cannot be used; the first, {which}: {in_options(why)}")


def _shown(task: Task, most: int, table: Table | None) -> dict[str, Any]:
    rows = [] if table is None else [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {
        "task": task.name,
        "metric": task.metric,
        "score": task.score,
        "pairs": len(task),
        "shown": [record_of(pair) for pair in task.pairs[:most]],
        "skipped": list(task.skipped),
        "tokens": rows,
    }


def _preview(task: Task, model: str, most: int, align: Align) -> Table:
    """How the model's tokenizer cuts the pairs, how they align, and which of them it refuses."""
    from cotrace.models import load_model

    quiet_libraries()
    tokenizer = load_model(model).require_tokenizer()
    table = tasks.preview(task, tokenizer, most, align=align)
    return replace(table, rows=[(*row[:3], in_options(row[3])) for row in table.rows])


def check(config: RunConfig, *, row: bool, json_path: str | None, quiet: bool = False) -> None:
    """Check, show, and write the figures where asked. Raises CheckFailed where a property is broken."""
    check_figures(json_path)
    screen = Screen(quiet, as_json=json_path == STDOUT)
    quiet_libraries()
    task = config.load_task() if config.task else None
    reading = {"data": config.data, "split": config.split, "conventions": config.conventions}
    if not config.task and (given := [name for name, value in reading.items() if value is not None]):
        raise InputError(f"--{given[0]} says how the pairs of a task are read: give --task as well")
    asked = listed_sites(config.sites)
    entries_of(asked)
    check_reading(task, config.donors, config.align)
    screen.note(f"loading {config.model}")
    model = config.load_model()
    use_threads(config, model)
    task = task and config.suited_task(task, model)
    sites = ", ".join(config.sites or [site.value for site in model.sites])
    where = f" in layers {config.layers}" if config.layers else ""
    screen.note(f"to do: each property of the model and of {sites}{where}, on prompts of random tokens")
    with steps(screen) as step:
        report = check_model(
            model,
            task,
            sites=asked or None,
            layers=config.layers,
            donors=config.donors,
            align=config.align,
            progress=step,
        )
    if row:
        screen.say(markdown_row(report))
    else:
        rows = [tuple(in_options(str(cell)) for cell in row) for row in report.rows()]
        screen.say(Table(report.headline, HEADS, rows, left=frozenset({0, 1, 4})))
        screen.say(f"sites: {report.places}")
    write_figures(json_path, report.to_dict(), screen, "check")
    if not report.ok:
        raise CheckFailed(report.reason)


def markdown_row(report: CheckReport) -> str:
    """The report as a row of the table of checkpoints in the documentation."""
    verdict = "holds" if report.ok else "; ".join(finding.words for finding in report.failures)
    cells = (
        report.model,
        report.dtype,
        transformers.__version__,
        report.places,
        f"{report.error:.1e}",
        verdict,
    )
    return f"| {' | '.join(cells)} |"


def measure(config: RunConfig, *, by: Sequence[str], json_path: str | None, quiet: bool = False) -> None:
    """Measure, show, and write the figures where asked. Raises CotraceError."""
    check_figures(json_path)
    screen = Screen(quiet, as_json=json_path == STDOUT)
    quiet_libraries()
    task = config.load_task()
    check_metric(config.metric, task)
    fields = list(by) or None
    for field in fields or ():
        values_of(task.pairs, field)
    twice = " and their counterfactuals" if any(pair.counterfactual for pair in task.pairs) else ""
    screen.note(f"to do: {len(task):,} prompts{twice}, each once, without any intervention")
    screen.note(f"loading {config.model}")
    model = config.load_model()
    task = config.suited_task(task, model)
    with steps(screen) as step:
        found = measure_task(
            model, task, metric=config.metric, by=fields, batch_tokens=config.batch_tokens, progress=step
        )
    screen.say(found.table())
    for note in found.notes:
        screen.say(note)
    write_figures(json_path, found.to_dict(), screen, "measure")


def compare_runs(one: str, other: str, *, quiet: bool = False, as_json: bool = False) -> None:
    """Show what differs and whether the results agree. Raises InputError, DamagedRun."""
    screen = Screen(quiet, as_json)
    found = difference(StoredRun.read(one), StoredRun.read(other))
    for table in found.tables():
        screen.say(table)
    for search in found.only_one:
        screen.say(f"Only one of the runs has the search {search}.")
    screen.say(found.verdict)
    screen.data("diff", found.to_dict)


@own_threads()
def verify_run(
    run: str, examples: int, *, model: str | None = None, quiet: bool = False, as_json: bool = False
) -> None:
    """Hashes first, so that nothing is loaded for a damaged run; then effects again. Raises NotReproduced."""
    screen = Screen(quiet, as_json)
    check_examples(examples)
    stored = StoredRun.read(run, model=model)
    check_hashes(stored)
    check_consistent(stored)
    quiet_libraries()
    screen.note(f"loading {stored.config.model}")
    prepared = prepare(stored.question, check=partial(check_same_data, stored.path))
    found = verify(stored, prepared, examples, seed=stored.config.seed)
    screen.say(found.table())
    for line in found.elsewhere:
        screen.say(f"This machine differs: {line}")
    screen.data("verify", found.to_dict)
    if found.outcome == "different":
        raise NotReproduced(f"{run}: {found.verdict} Compare versions and hardware with `cotrace diff` and a new run")
    screen.say(found.verdict)


def cite_run(run: str, *, as_json: bool = False) -> None:
    """Print the paragraph and the entries, character by character: they are to be copied."""
    screen, found = Screen(as_json=as_json), cite(StoredRun.read(run))
    screen.data("cite", lambda: asdict(found))
    if not as_json:
        screen.raw(visible(found.text) + "\n")


def print_schema(command: str | None) -> None:
    """Print the JSON Schema of one command's reply, or of all. Raises UnknownName."""
    found = schemas(command)
    Screen().raw(json.dumps(found if command is None else found[command], indent=1) + "\n")
