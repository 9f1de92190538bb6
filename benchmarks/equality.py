"""Equality: command lines run by 0, 1, 2, 3 workers, and what they wrote compared byte by byte.

``python -m benchmarks.equality --model FOLDER`` takes a small model of yours beside the one that ships. Each case is a
whole ``cotrace trace``: searches, metrics, donors, modes, roles, goals. All runs share one Ray of this machine, and all
cases of one count its workers. It ends with code 1 where a byte differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SAME = (
    *("frontier.csv", "masks.safetensors", "evaluation.json"),
    *("history.csv", "effects.safetensors", "selection.json"),
)
"""Files that do not depend on who computes."""
SHIPPED = ("--model", "shipped", "--task", "demo_conflict", "--max-size", "4", "--batch-tokens", "512")
OBJECT_STORE = 200_000_000
NAMES = ("Sara", "Max", "Sue", "Mia", "Bob", "Amy")
CASES: Mapping[str, tuple[str, ...]] = {
    "all searches": (*SHIPPED, "--search", "pursuit,pgbct,greedy,topk,random", "--option.pgbct.epochs", "2"),
    "keep": (*SHIPPED, "--mode", "keep", "--evaluation", "standard"),
    "kl": (*SHIPPED, "--metric", "kl", "--direction", "maximise"),
    "kl towards": (*SHIPPED, "--metric", "kl", "--direction", "target=0.1"),
    "patterns": (*SHIPPED, "--sites", "attention_pattern,mlp_output", "--positions", "prompt+answer"),
    "neurons": (*SHIPPED, "--sites", "mlp_neuron", "--search", "topk,pgbct", "--option.pgbct.epochs", "2"),
    "roles": (*SHIPPED, "--roles", "last"),
    "draws of noise": (*SHIPPED, "--donors", "noise=3x,draws=2"),
    "mean": (*SHIPPED, "--donors", "mean=task"),
    "resample": (*SHIPPED, "--donors", "resample"),
    "factor": (*SHIPPED, "--donors", "scale=0.3"),
    "subset and audit": (*SHIPPED, "--search-pairs", "24", "--judge-pairs", "12", "--audit", "0.2"),
    "constraint": (*SHIPPED, "--constraint", "demo_agreement:accuracy+-0.05"),
    "sum": (*SHIPPED, "--plus", "0.5*demo_agreement:log_odds:maximise"),
    "little memory": (*SHIPPED, "--memory", "1MB"),
    "full evaluation": (*SHIPPED, "--evaluation", "full", "--max-size", "3"),
}
"""Case -> what ``cotrace trace`` is asked on the model that ships."""
OWN: Mapping[str, tuple[str, ...]] = {
    "generated": ("--task", "agreement", "--task-option.size", "40", "--search", "pursuit,greedy,pgbct"),
    "generated and kept": ("--task", "ioi", "--task-option.size", "30", "--mode", "keep"),
    "gap of groups": ("--task", "PAIRS", "--metric", "stereotype_gap", "--direction", "minimise"),
    "subject": ("--task", "PAIRS", "--roles", "subject,last", "--donors", "noise=3x@subject"),
    "kl of a file": ("--task", "PAIRS", "--metric", "kl", "--direction", "maximise", "--evaluation", "standard"),
}
"""The same on a model of the user's; PAIRS is a file with groups and spans."""


def own_pairs(path: Path, count: int = 48) -> Path:
    """Pairs with groups, favourable answers and a subject."""
    rows = []
    for i in range(count):
        name, other = NAMES[i % 6], NAMES[(i + 1 + i // 6) % 6]
        thing = ("ball", "cat", "big red box")[i % 3]
        base, donor = (f"One day, {who} saw a {thing} in the park. The" for who in (name, other))
        row = {"id": str(i), "base": base, "counterfactual": donor, "answers": [" boy", " girl"], "target": i % 2}
        rows.append(
            row | {"group": "ab"[i % 2], "favourable": 0, "label": i % 3 % 2, "spans": {"subject": [9, 9 + len(name)]}}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(cases: Sequence[str], model: str | None, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Case and command line; those of the user's model where one is given."""
    for name, words in CASES.items():
        if not cases or name in cases:
            yield name, ["trace", *words]
    for name, words in OWN.items() if model else ():
        if not cases or name in cases:
            pairs = str(own_pairs(folder / "pairs.jsonl"))
            own = [pairs if word == "PAIRS" else word for word in words]
            yield name, ["trace", "--model", str(model), *own, "--max-size", "3", "--batch-tokens", "256"]


@contextmanager
def ray_here(processors: int) -> Iterator[None]:
    """Ray with so many processors, whatever the machine has, and a small object store."""
    from cotrace.workers.cluster import SETTINGS

    os.environ.update(SETTINGS)
    import ray

    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=processors, object_store_memory=OBJECT_STORE, **options)
    try:
        yield
    finally:
        ray.shutdown()


def run_all(lines: Sequence[tuple[str, list[str]]], counts: Sequence[int], folder: Path) -> dict[str, dict[int, float]]:
    """Case -> workers -> seconds, each written to ``folder/CASE/WORKERS``. Raises SystemExit where one fails."""
    from cotrace.cli.main import run
    from cotrace.runs.prepare import one_crew

    took: dict[str, dict[int, float]] = {name: {} for name, _ in lines}
    for count in counts:
        with one_crew():
            for name, line in lines:
                began, out = time.monotonic(), folder / name / str(count)
                code = run([*line, "--workers", str(count), "--out", str(out), "--quiet"])
                if code:
                    sys.exit(f"{name} on {count} workers ended with code {code}")
                took[name][count] = time.monotonic() - began
    return took


def differing(folder: Path, counts: Sequence[int]) -> list[str]:
    """Files of a case that are not the same for all counts."""
    first, *others = (folder / str(count) for count in counts)
    return [name for name in SAME if any(_bytes(other / name) != _bytes(first / name) for other in others)]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a small model for more cases")
    parser.add_argument("--counts", default="0,1,2,3")
    parser.add_argument("--cases", default="", help="only these, separated by commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="keep what the runs wrote in this folder")
    options = parser.parse_args()
    counts = [int(word) for word in options.counts.split(",")]
    folder = options.keep or Path(tempfile.mkdtemp(prefix="cotrace-equality-"))
    folder.mkdir(parents=True, exist_ok=True)
    lines = list(asked([name for name in options.cases.split(",") if name], options.model, folder))
    with ray_here(max(counts) + 1):
        took = run_all(lines, counts, folder)
    found = {name: differing(folder / name, counts) for name, _ in lines}
    for name, several in found.items():
        seconds = ", ".join(f"{count}: {s:.1f} s" for count, s in took[name].items())
        print(f"{name:18} {'the same' if not several else 'DIFFERENT ' + ', '.join(several):40} {seconds}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"counts": counts, "different": found, "seconds": took}, indent=1))
    if not options.keep:
        shutil.rmtree(folder)
    sys.exit(any(found.values()))


if __name__ == "__main__":
    main()
