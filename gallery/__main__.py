"""``make gallery``: run the audits on a real model, one after the other, and write a page for each.

An audit that is finished is left as it is, one that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cotrace as ct
from cotrace.cli.main import run as cotrace
from cotrace.errors import CotraceError, InputError
from cotrace.prompts import PromptPair
from cotrace.prompts.pair_files import read_pairs
from cotrace.runs.addenda import read_explanation
from cotrace.runs.result_files import StoredRun
from gallery.recipes import AUDITS, Audit

QUICK = {"search_pairs": 16, "max_size": 27, "option.pursuit.effort": "fast", "evaluation": "quick"}
FULL = {"evaluation": "standard"}
INTERRUPTED = (130, 143)
LIKELIEST, TEMPLATES = 5, 4
EXPLAINED = 4
"""Most members that are explained: what it costs grows with their square."""
MODEL = "SmolLM2-135M-Instruct"


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
    if audit.data and not own_pairs(audit, given):
        options["data"] = str(Path(given.data) / audit.data)
    options |= shared | audit.options | {"out": str(folder)}
    return ["trace", *words(options)]


def own_pairs(audit: Audit, given: argparse.Namespace) -> bool:
    """Whether an audit's pairs are written to a file: its own, facts that the model knows, a part of a benchmark."""
    return audit.pairs is not None or audit.known or (audit.few is not None and not given.full)


def pairs_file(audit: Audit, given: argparse.Namespace) -> Path | None:
    """The audit's own pairs as a file; None where it takes a whole benchmark."""
    path = Path(given.runs) / "pairs" / f"{audit.name}.jsonl"
    if not own_pairs(audit, given):
        return None
    if not path.exists():
        rows = audit.pairs() if audit.pairs else known_facts(given, audit) if audit.known else few_words(given, audit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        read_pairs(path)
    return path


def known_facts(given: argparse.Namespace, audit: Audit) -> list[dict[str, Any]]:
    """Facts whose first token is among the five likeliest for the model. Raises InputError where there are too few."""
    import torch

    model = ct.load_model(given.model, gguf_file=given.gguf)
    tokenizer, kept = model.require_tokenizer(), []
    for pair in ct.tasks.counterfact(Path(given.data) / str(audit.data)).pairs:
        ids = tokenizer(pair.base, return_tensors="pt").input_ids
        with torch.no_grad():
            likeliest = model.module(ids).logits[0, -1].topk(LIKELIEST).indices.tolist()
        if tokenizer(pair.answers[0], add_special_tokens=False).input_ids[0] in likeliest:
            start, stop = pair.spans["subject"]
            row = {"id": pair.id, "base": pair.base, "answers": list(pair.answers), "target": 0}
            kept.append(row | {"spans": {"subject": [start, stop]}, "split_group": pair.split_group})
    if len(kept) < given.fewest:
        raise InputError(
            f"the model knows {len(kept)} of these facts, fewer than {given.fewest}: give --data more of them"
        )
    return kept


def few_words(given: argparse.Namespace, audit: Audit) -> list[dict[str, Any]]:
    """So many words of each counterfactual, evenly over the list, in the first templates."""
    by_word: dict[tuple[str, str], list[PromptPair]] = {}
    for pair in ct.tasks.load(audit.task, data=Path(given.data) / str(audit.data)).pairs:
        by_word.setdefault((pair.answers[pair.target], str(pair.split_group)), []).append(pair)
    kept: list[PromptPair] = []
    for answer in dict.fromkeys(answer for answer, _ in by_word):
        groups = [pairs for (own, _), pairs in by_word.items() if own == answer]
        step = max(1, len(groups) // (audit.few or 1))
        kept += [pair for pairs in groups[::step][: audit.few] for pair in pairs[:TEMPLATES]]
    fields = ("id", "base", "counterfactual", "answers", "target", "split_group")
    return [{name: getattr(pair, name) for name in fields} for pair in kept]


def traced(audit: Audit, given: argparse.Namespace, folder: Path) -> int:
    """Run or go on with an audit; 0 where it is done."""
    if (folder / "config.yaml").exists():
        return cotrace(["resume", str(folder)])
    if audit.constrained:
        return bounded(audit, given, folder)
    return cotrace(command(audit, given, folder))


def bounded(audit: Audit, given: argparse.Namespace, folder: Path) -> int:
    """An audit under a constraint, in Python: the frontier, its figure, its report, and what its members do."""
    if (folder / "frontier.csv").exists():
        return 0
    model = ct.load_model(given.model, gguf_file=given.gguf)
    task = ct.tasks.load(audit.task, data=Path(given.data) / str(audit.data), split=audit.options["split"])
    problem = ct.LanguageProblem(model, task, search_pairs=None if given.full else QUICK["search_pairs"])
    side = ct.side_problem(problem, ct.tasks.load(str(audit.constrained), size=40))
    limit = 0.5 * abs(float(side.value([str(one) for one in side.space])))
    search = ct.search.Pursuit(max_size=audit.options["max_size"], effort="normal" if given.full else "fast")
    frontier = search(ct.Constrained(problem, [ct.Constraint(side, limit)]))
    folder.mkdir(parents=True, exist_ok=True)
    ct.report.write(frontier, folder / "report.html")
    (folder / "frontier.svg").write_bytes(ct.report.to_bytes(ct.report.frontier(frontier), "svg"))
    few = frontier.at(min(EXPLAINED, max(frontier.sizes)))
    (folder / "explanation.json").write_text(json.dumps({"words": list(ct.explain(problem, few).words)}))
    frontier.to_frame().to_csv(folder / "frontier.csv", index=False)  # last: it says that all is there
    return 0


def page(audit: Audit, given: argparse.Namespace, folder: Path) -> str:
    """The audit's page: question, command, figure, verdict, what the set does, and what is not shown."""
    line = shown(given, by_hand(audit, given) if audit.constrained else ["cotrace", *command(audit, given, folder)])
    found = bounded_parts(audit, given, folder) if audit.constrained else traced_parts(audit, given, folder)
    parts = [f"# {audit.name.replace('_', ' ')}", audit.question, f"```\n{line}\n```", *found]
    parts += ["## What is not shown", audit.not_shown, kept_report(audit, given, folder)]
    return "\n\n".join(parts) + "\n"


def kept_report(audit: Audit, given: argparse.Namespace, folder: Path) -> str:
    """A link to the audit's report, which is kept beside the page without the prompts' texts."""
    report = Path(given.out) / "reports" / f"{audit.name}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    redacted = folder / "report-redacted.html"
    page = (redacted if redacted.exists() else folder / "report.html").read_text()
    report.write_text(named(given, page))
    return f"The whole [report](reports/{report.name}), without the prompts' texts."


def by_hand(audit: Audit, given: argparse.Namespace) -> list[str]:
    """The call of an audit that is made in Python."""
    source = ["--model", given.model, *(["--gguf", given.gguf] if given.gguf else [])]
    return ["python", "-m", "gallery", *source, "--data", str(given.data), "--only", audit.name]


def shown(given: argparse.Namespace, words: Sequence[str]) -> str:
    """A command line as it is shown."""
    return named(given, shlex.join(words))


def named(given: argparse.Namespace, text: str) -> str:
    """Text with names in place of this machine's folders."""
    folders = {given.runs: "gallery/runs", given.data: "benchmarks"} | ({given.model: MODEL} if given.gguf else {})
    for folder, name in folders.items():
        text = text.replace(folder, name) if folder else text
    return text


def traced_parts(audit: Audit, given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Figure, verdict and members of a run, and what the first of them do."""
    stored = StoredRun.read(folder)
    frontier = stored.frontiers[0]
    best = frontier.enough(0.9)
    yield drawing(audit, given, ["figure", str(folder), "--format", "svg", "--kind", "frontier", "--quiet"])
    verdict = json.loads((folder / "evaluation.json").read_text())["verdict"]
    yield "\n".join(f"- {escaped(line)}" for line in verdict)
    yield f"The smallest set with 90 % of the best effect has {best.k}: {', '.join(best.components)}."
    yield f"The search cost {frontier.forward_equivalents:.0f} forward-equivalents."
    k = max(size for size in frontier.sizes if size <= min(EXPLAINED, best.k))
    if not (folder / "explanation.json").exists() and cotrace(["explain", str(folder), "--k", str(k), "--quiet"]):
        raise CotraceError("its members were not explained; the same call goes on")
    cotrace(["report", str(folder), "--redact", "--quiet"])
    yield does(read_explanation(folder / "explanation.json").words, k)


def bounded_parts(audit: Audit, given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Figure and frontier under a constraint, and what the first members do."""
    drawn = Path(given.out) / f"{audit.name}.svg"
    drawn.write_bytes((folder / "frontier.svg").read_bytes())
    yield f"![effect by size]({audit.name}.svg)"
    rows = list(csv.DictReader((folder / "frontier.csv").open()))
    held = [f"| {row['k']} | {float(row['effect']):+.3f} | {float(row['effect_heldout']):+.3f} |" for row in rows]
    yield "\n".join(["| k | effect | held out |", "|---|---|---|", *held])
    yield does(json.loads((folder / "explanation.json").read_text())["words"], min(EXPLAINED, len(rows)))


def drawing(audit: Audit, given: argparse.Namespace, words: list[str]) -> str:
    """The figure beside the page, drawn once."""
    figure = Path(given.out) / f"{audit.name}.svg"
    if not figure.exists():
        cotrace([*words, "--out", str(figure)])
    return f"![effect by size]({figure.name})"


def does(words: Sequence[str], k: int) -> str:
    """What the best set of a small size does."""
    return "\n\n".join([f"## What the best {k} do", "\n".join(f"- {escaped(line)}" for line in words)])


def escaped(line: str) -> str:
    """Text in which Markdown sees no marks."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", line)


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 where an audit failed, after all others were tried; 130 or 143 if interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or id of the model")
    parser.add_argument("--gguf", help="GGUF file in the model's folder")
    parser.add_argument("--data", help="folder with winobias, winogender, professions and counterfact")
    parser.add_argument("--out", default="docs/gallery", help="folder of the pages, their figures and reports")
    parser.add_argument("--runs", default="gallery/runs", help="folder of the runs")
    parser.add_argument("--only", help="audits, separated by commas")
    parser.add_argument("--fewest", type=int, default=12, help="fewest known facts")
    parser.add_argument("--full", action="store_true", help="all pairs, all sizes: for larger machines")
    given = parser.parse_args(arguments)
    asked = [audit for audit in AUDITS if not given.only or audit.name in given.only.split(",")]
    Path(given.out).mkdir(parents=True, exist_ok=True)
    failed = []
    for audit in asked:
        if audit.data and not given.data:
            print(f"{audit.name}: left out, as it needs --data with the folder {audit.data}")
            continue
        folder = Path(given.runs) / audit.name
        print(f"\n=== {audit.name}: {audit.question}")
        try:
            stopped = traced(audit, given, folder)
            if not stopped:
                (Path(given.out) / f"{audit.name}.md").write_text(page(audit, given, folder))
        except CotraceError as error:  # the other audits are tried all the same
            stopped = 2
            print(f"{audit.name}: {error}")
        if stopped in INTERRUPTED:
            return stopped
        if stopped:
            failed.append(audit.name)
    print(f"failed: {', '.join(failed)}" if failed else f"done: the pages are in {given.out}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
