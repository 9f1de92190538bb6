"""Commands on the result of a run: from ``evaluate`` and ``report`` to ``verify`` and ``cite``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from cotrace.cli.options import (
    ALONE,
    CARRIED,
    EDITED,
    JUDGED,
    OPENED,
    SAID,
    SHOWN,
    Carried,
    DryRun,
    Edits,
    Handed,
    Judged,
    Names,
    Opens,
    Saying,
    Showing,
    Switch,
)

Kind = Literal["frontier", "map", "layers", "interactions", "compare"]
Form = Literal["png", "svg", "pdf"]
Format = Literal["json", "mib", "transformer-lens", "nnsight", "names", "csv", "effects"]


def evaluate(
    run: str,
    *,
    asked: Judged = JUDGED,
    dry_run: DryRun = False,
    opening: Opens = OPENED,
    hands: Handed = ALONE,
    show: Showing = SHOWN,
) -> None:
    """Say how sure the result of a run is: intervals, controls, members, stability, interactions, side effects.

    Parameters
    ----------
    run
        Folder of a finished run.
    dry_run
        Say the plan and its cost, and stop.
    """
    from cotrace.cli.judging import evaluate_run

    with opening.trusting():
        evaluate_run(run, asked, workers=hands.of_workers, dry_run=dry_run, quiet=show.quiet, as_json=show.as_json)


def explain(
    run: str,
    *,
    k: int | None = None,
    search: str | None = None,
    known: Names = (),
    dry_run: DryRun = False,
    opening: Opens = OPENED,
    show: Showing = SHOWN,
) -> None:
    """Say what a run's selection does: what its members read and write, where they act, and who feeds whom.

    Parameters
    ----------
    run
        Folder of a finished run.
    k
        Size of the selection. Default: the smallest with 90 % of the best training effect.
    search
        Which of the run's searches. Default: the first.
    known
        Published circuits whose roles are shown beside, by commas: ioi, greater_than, induction.
    dry_run
        Say the cost, and stop.
    """
    from cotrace.cli import readings as module

    with opening.trusting():
        module.explain_run(
            run, k=k, search=search, circuits=known, dry_run=dry_run, quiet=show.quiet, as_json=show.as_json
        )


def transfer(
    run: str,
    *,
    target: Annotated[Names, Parameter(name="--to")],
    asked: Carried = CARRIED,
    json: str | None = None,
    opening: Opens = OPENED,
    show: Saying = SAID,
) -> None:
    """Say whether a run's set carries over: to another task, another split, or another checkpoint.

    Parameters
    ----------
    run
        Folder of a finished run.
    target
        A task by name or file, a model's folder or id, or a split of the run's task; several are judged one by one.
        Where a word may be more than one of them: task=WORD, model=WORD or split=WORD.
    json
        Print the figures as one JSON object on stdout, and nothing else there; --json FILE writes them to a new file.
    """
    from cotrace.cli import readings as module

    with opening.trusting():
        module.transfer(run, target, asked, json_path=json, quiet=show.quiet)


def report(
    run: str,
    *,
    redact: Switch = False,
    language: Literal["en", "de"] = "en",
    search: str | None = None,
    out: str | None = None,
    show: Showing = SHOWN,
) -> None:
    """Write report.html of a run: one file with everything that is known of it, that loads nothing from anywhere.

    Parameters
    ----------
    run
        Folder of a finished run.
    redact
        Leave ids in place of texts, for data that may not be handed on; written as report-redacted.html.
    language
        That of the first screen, which says the result in plain words: en or de.
    search
        Which search is shown in detail. Default: the first.
    out
        New file for the report. Default: report.html in the run's folder.
    """
    from cotrace.cli import handing_out as module

    module.report(run, search=search, redact=redact, language=language, out=out, quiet=show.quiet, as_json=show.as_json)


def figure(
    run: str,
    *,
    kind: Kind,
    form: Annotated[Form, Parameter(name=("--format", "-f"))] = "png",
    k: int | None = None,
    search: str | None = None,
    width: Literal["column", "page"] = "page",
    out: str | None = None,
    show: Showing = SHOWN,
) -> None:
    """Draw one figure of a run, at the size and in the fonts of a paper.

    Parameters
    ----------
    run
        Folder of a finished run.
    kind
        frontier: effect by size. map: layers and units of the set of k. layers: how much of it lies in each layer.
        interactions: members by members, as evaluated. compare: what each search reaches for its cost.
    form
        png, svg or pdf.
    k
        Size of the set that map and layers show. Default: the one that was judged.
    search
        Which search comes first. Default: the run's first.
    width
        column: 3.3 inches; page: 7 inches.
    out
        New file. Default: KIND.FORMAT in the working folder.
    """
    from cotrace.cli import handing_out as module

    module.figure(
        run, kind=kind, form=form, k=k, search=search, width=width, out=out, quiet=show.quiet, as_json=show.as_json
    )


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
    opening: Opens = OPENED,
    show: Showing = SHOWN,
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
        0 takes the likeliest token each time. Above 0 the model's own top_k, top_p and penalties are kept, and said.
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
    from cotrace.cli.handing_out import generated
    from cotrace.editing import Sampling

    with opening.trusting():
        sampling = Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, samples=samples, seed=seed, batch_size=batch_size
        )
        generated(
            run,
            k,
            prompts,
            sampling,
            donor=donor,
            judge=judge,
            search=search,
            model=model,
            out=out,
            quiet=show.quiet,
            as_json=show.as_json,
        )


def edit(
    run: str,
    *,
    out: str,
    asked: Edits = EDITED,
    search: str | None = None,
    model: str | None = None,
    opening: Opens = OPENED,
    show: Showing = SHOWN,
) -> None:
    """Fold a run's selection into the weights and save a model that plain transformers loads.

    Parameters
    ----------
    run
        Folder of a run.
    out
        New folder for the edited model.
    search
        Which search of the run. Default: the first.
    model
        Another model than the run's.
    """
    from cotrace.cli.edits import edit as run_edit

    with opening.trusting():
        run_edit(run, asked, out, search=search, model=model, quiet=show.quiet, as_json=show.as_json)


def export(
    run: str,
    *,
    to: Annotated[Format, Parameter(name=("--format", "-f"))] = "json",
    k: int | None = None,
    search: str | None = None,
    out: str | None = None,
    show: Showing = SHOWN,
) -> None:
    """Write a run's selection as JSON, for other tools, or its figures as CSV.

    Parameters
    ----------
    run
        Folder of a finished run.
    to
        json: with its question. mib: a circuit of the Mechanistic Interpretability Benchmark. transformer-lens,
        nnsight: Python that does the intervention. names: component names. csv: members by size. effects: effects by
        pair.
    k
        Size of the selection. Default: the smallest with 90 % of the best effect.
    search
        Which of the run's searches. Default: the first.
    out
        New file. Default: the screen.
    """
    from cotrace.cli import handing_out as module

    module.export(run, to, k=k, search=search, out=out, quiet=show.quiet, as_json=show.as_json)


def diff(one: str, other: str, *, show: Showing = SHOWN) -> None:
    """Say what differs between two runs, and whether their results agree.

    Parameters
    ----------
    one
        Folder of a finished run.
    other
        Folder of another.
    """
    from cotrace.cli.inspection import compare_runs

    compare_runs(one, other, quiet=show.quiet, as_json=show.as_json)


def verify(
    run: str,
    *,
    examples: int = 20,
    model: str | None = None,
    opening: Opens = OPENED,
    show: Showing = SHOWN,
) -> None:
    """Check every file of a run by its hash, and compute its effects again: same, within tolerance, or different.

    Parameters
    ----------
    run
        Folder of a finished run.
    examples
        How many pairs of each part to compute again, for up to 16 selections of each search.
    model
        Where the run's model lies on this machine, if not where the run says.
    """
    from cotrace.cli.inspection import verify_run

    with opening.trusting():
        verify_run(run, examples, model=model, quiet=show.quiet, as_json=show.as_json)


def cite(run: str, *, show: Showing = SHOWN) -> None:
    """Print a methods paragraph for a run, and BibTeX for the tool, the paper, the searches, the model and the data.

    Parameters
    ----------
    run
        Folder of a finished run.
    """
    from cotrace.cli.inspection import cite_run

    cite_run(run, as_json=show.as_json)


def open_report(run: str, *, show: Showing = SHOWN) -> None:
    """Open the report of a run in the browser; it is written first where the run has none.

    Parameters
    ----------
    run
        Folder of a finished run.
    """
    from cotrace.cli import handing_out as module

    module.open_report(run, quiet=show.quiet, as_json=show.as_json)


def schema(command: str | None = None) -> None:
    """Print the JSON Schema of what --json prints, of one command or of all.

    Parameters
    ----------
    command
        Such as trace, or "tasks show". Default: all.
    """
    from cotrace.cli.inspection import print_schema

    print_schema(command)
