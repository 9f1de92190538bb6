"""``make gallery``: run the audits on a real model, one after the other, and write a page for each.

An audit that is finished is left as it is, one that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cotrace as ct
from cotrace.cli.main import run as cotrace
from cotrace.errors import CotraceError, InputError
from cotrace.prompts.pair_files import read_pairs
from cotrace.runs.result_files import StoredRun
from gallery.recipes import AUDITS, Audit

QUICK = {"search_pairs": 16, "max_size": 27, "option.pursuit.effort": "fast", "evaluation": "quick"}
FULL = {"evaluation": "standard"}


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed."""
    typed: list[str] = []
    for name, value in options.items():
        if name == "task_options":
            typed += [part for key, own in value.items() for part in (f"--task-option.{key}", str(own))]
        else:
            typed += [f"--{name.replace('_', '-')}", str(value)]
    return typed


def command(audit: Audit, given: argparse.Namespace, folder: Path) -> list[str]:
    """The trace of an audit."""
    shared = FULL if given.full else QUICK
    options: dict[str, Any] = {"model": given.model} | ({"gguf": given.gguf} if given.gguf else {})
    options |= {"task": str(pairs_file(audit, given) or audit.task)}
    if audit.data and not audit.known:
        options["data"] = str(Path(given.data) / audit.data)
    options |= shared | audit.options | {"out": str(folder)}
    return ["trace", *words(options)]


def pairs_file(audit: Audit, given: argparse.Namespace) -> Path | None:
    """The audit's own pairs as a file: those written here, or the facts that the model knows."""
    path = Path(given.out) / "pairs" / f"{audit.name}.jsonl"
    if audit.pairs is None and not audit.known:
        return None
    if not path.exists():
        rows = audit.pairs() if audit.pairs else known_facts(given, audit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        read_pairs(path)
    return path


def known_facts(given: argparse.Namespace, audit: Audit) -> list[dict[str, Any]]:
    """Facts whose first token the model itself names first. Raises InputError where there are too few."""
    import torch

    model = ct.load_model(given.model, gguf_file=given.gguf)
    tokenizer, kept = model.require_tokenizer(), []
    for pair in ct.tasks.counterfact(Path(given.data) / str(audit.data)).pairs:
        ids = tokenizer(pair.base, return_tensors="pt").input_ids
        with torch.no_grad():
            top = int(model.module(ids).logits[0, -1].argmax())
        if top == tokenizer(pair.answers[0], add_special_tokens=False).input_ids[0]:
            start, stop = pair.spans["subject"]
            row = {"id": pair.id, "base": pair.base, "answers": list(pair.answers), "target": 0}
            kept.append(row | {"spans": {"subject": [start, stop]}, "split_group": pair.split_group})
    if len(kept) < given.fewest:
        raise InputError(
            f"the model knows {len(kept)} of these facts, fewer than {given.fewest}: give --data more of them"
        )
    return kept


def traced(audit: Audit, given: argparse.Namespace, folder: Path) -> int:
    """Run or go on with an audit; 0 where it is done."""
    if (folder / "config.yaml").exists():
        return cotrace(["resume", str(folder)])
    if audit.constrained:
        return bounded(audit, given, folder)
    return cotrace(command(audit, given, folder))


def bounded(audit: Audit, given: argparse.Namespace, folder: Path) -> int:
    """An audit under a constraint, in Python: the frontier and its report."""
    if (folder / "frontier.csv").exists():
        return 0
    model = ct.load_model(given.model, gguf_file=given.gguf)
    task = ct.tasks.load(audit.task, data=Path(given.data) / str(audit.data), split=audit.options["split"])
    problem = ct.LanguageProblem(model, task, search_pairs=None if given.full else 16)
    side = ct.side_problem(problem, ct.tasks.load(str(audit.constrained), size=40))
    limit = 0.5 * abs(float(side.value([str(one) for one in side.space])))
    search = ct.search.Pursuit(max_size=audit.options["max_size"], effort="normal" if given.full else "fast")
    frontier = search(ct.Constrained(problem, [ct.Constraint(side, limit)]))
    folder.mkdir(parents=True, exist_ok=True)
    frontier.to_frame().to_csv(folder / "frontier.csv", index=False)
    ct.report.write(frontier, folder / "report.html")
    return 0


def page(audit: Audit, given: argparse.Namespace, folder: Path, seconds: float) -> str:
    """The audit's page."""
    line = f"cotrace {shlex.join(command(audit, given, folder))}" if not audit.constrained else "python -m gallery"
    parts = [f"# {audit.name}", audit.question, f"```\n{line}\n```"]
    if audit.constrained:
        parts.append(f"Frontier under the constraint: [frontier.csv](runs/{audit.name}/frontier.csv).")
    else:
        stored = StoredRun.read(folder)
        best = stored.frontiers[0].enough(0.9)
        path = folder / "evaluation.json"
        verdict = json.loads(path.read_text())["verdict"] if path.exists() else []
        parts += [f"![effect by size]({audit.name}.svg)", "", *verdict]
        parts.append(f"The smallest set with 90 % of the best effect has {best.k}: {', '.join(best.components)}.")
        cotrace(["report", str(folder), "--redact", "--quiet"])
        figure = Path(given.out) / f"{audit.name}.svg"
        if not figure.exists():
            cotrace(["figure", str(folder), "--format", "svg", "--kind", "frontier", "--out", str(figure), "--quiet"])
    parts += [f"**Not shown.** {audit.not_shown}", f"This call took {seconds / 60:.1f} minutes."]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 where an audit failed, after all others were tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or id of the model")
    parser.add_argument("--gguf", help="GGUF file in the model's folder")
    parser.add_argument("--data", help="folder with winobias, winogender, professions and counterfact")
    parser.add_argument("--out", default="gallery/pages")
    parser.add_argument("--only", help="audits, separated by commas")
    parser.add_argument("--fewest", type=int, default=12, help="fewest known facts")
    parser.add_argument("--full", action="store_true", help="all pairs, all sizes: for larger machines")
    given = parser.parse_args(arguments)
    asked = [audit for audit in AUDITS if not given.only or audit.name in given.only.split(",")]
    failed = []
    for audit in asked:
        if audit.data and not given.data:
            print(f"{audit.name}: left out, as it needs --data with the folder {audit.data}")
            continue
        folder, began = Path(given.out) / "runs" / audit.name, time.perf_counter()
        print(f"\n=== {audit.name}: {audit.question}")
        try:
            stopped = traced(audit, given, folder)
        except CotraceError as error:  # the other audits are tried all the same
            stopped = 2
            print(f"{audit.name}: {error}")
        if stopped:
            failed.append(audit.name)
            continue
        text = page(audit, given, folder, time.perf_counter() - began)
        (Path(given.out) / f"{audit.name}.md").write_text(text)
    print(f"failed: {', '.join(failed)}" if failed else f"done: the pages are in {given.out}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
