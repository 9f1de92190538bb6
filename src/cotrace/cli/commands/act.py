"""Act on a result: ``generate``, ``edit``."""

from __future__ import annotations

from cotrace.cli.options import SHOWN, Showing, Trusting


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
    trust_remote_code: Trusting = False,
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
    trust_remote_code
        Run the code that comes with the run's model, which no file may ask for. Only for code that you have read.
    """
    from cotrace.cli.generate import generated
    from cotrace.editing import Sampling
    from cotrace.runs.trusted import trusting

    with trusting(trust_remote_code):
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
    trust_remote_code: Trusting = False,
    show: Showing = SHOWN,
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
        Text file with one passage a line, for the next-token loss. Default: of the two texts that ship the one that the
        model knows better.
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
    trust_remote_code
        Run the code that comes with the run's model, which no file may ask for. Only for code that you have read.
    """
    from cotrace.cli.edit import Asked
    from cotrace.cli.edit import edit as run_edit
    from cotrace.editing import Limit
    from cotrace.runs.trusted import trusting

    with trusting(trust_remote_code):
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
