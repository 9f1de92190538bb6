"""Judge a result: ``evaluate``."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from cotrace.cli.options import SHOWN, AsJson, DryRun, Showing, Trusting


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
    every_size: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    intervals: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    trust_remote_code: Trusting = False,
    show: Showing = SHOWN,
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
        Neutral text of your own, one passage a line. Default: of the two that ship the one that the model knows better.
    side
        Further task whose change is measured.
    smallest_p
        Draw as many random sets as a p-value this small needs.
    every_size
        Test every size of the frontier against random sets, not some: every k has an adjusted p-value.
    intervals
        Refuse where there are too few pairs for intervals, rather than leave them out.
    dry_run
        Say the plan and its cost, and stop.
    as_json
        Print the evaluation as one JSON object on stdout, and nothing else there.
    trust_remote_code
        Run the code that comes with the run's model, which no file may ask for. Only for code that you have read.
    """
    from cotrace.cli import evaluate as module
    from cotrace.runs.trusted import trusting

    with trusting(trust_remote_code):
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
            every_size=every_size,
            intervals=intervals,
        )
        module.evaluate_run(run, asked, dry_run=dry_run, quiet=show.quiet, as_json=as_json)
