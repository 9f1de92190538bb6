"""What the first effect costs beyond plain transformers: ``python -m benchmarks.first --model FOLDER [--json PATH]``.

Two kinds of process take turns on one core. Plain: import transformers, load model and tokenizer, run four base prompts
and four donor prompts. Ours: import cotrace as well, load, make a ``LanguageProblem`` of the same pairs, ask for the
effect of one head. Median processor seconds of each part. Beyond plain is ours without the libraries' import and the
plain load; the second figure also takes off the base and the donor run, which any tool must do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.timing import write_cases

PAIRS = (
    ("The doctor said that he", "The doctor said that she"),
    ("The nurse told him that", "The nurse told her that"),
    ("A king and his", "A queen and her"),
    ("My brother is", "My sister is"),
)
ANSWERS = (" was", " had")


def plain(folder: str) -> Iterator[str]:
    """Plain transformers: a name after each part."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    yield "libraries"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    yield "load"
    for side, name in enumerate(("base run", "donor run")):
        with torch.no_grad():
            model(**tokenizer([pair[side] for pair in PAIRS], return_tensors="pt", padding=True))
        yield name


def ours(folder: str) -> Iterator[str]:
    """The same with cotrace, up to the first effect."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _ = AutoModelForCausalLM, AutoTokenizer
    yield "libraries"
    import cotrace as ct

    _ = ct.load_model, ct.LanguageProblem
    yield "import"
    model = ct.load_model(folder)
    yield "load"
    _ = model.layers
    yield "discovery"
    rows = [{"base": base, "counterfactual": other, "answers": list(ANSWERS), "target": 0} for base, other in PAIRS]
    problem = ct.LanguageProblem(model, ct.Task.from_records(rows), sites=["head_output"], holdout=0)
    yield "problem"
    problem.effects([problem.space[0]])
    yield "effect"


def parts(kind: str, folder: str) -> dict[str, float]:
    """Processor seconds of each part, in this process."""
    found, before = {}, time.process_time()
    for name in {"plain": plain, "ours": ours}[kind](folder):
        now = time.process_time()
        found[name], before = now - before, now
    return found


def measured(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """The same of a process of its own, with compiled modules, as an installed package has."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    surroundings |= {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.first", "--model", options.model, "--process", kind]
    ran = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def main() -> None:
    """Print the parts and the two figures; write them as JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a saved model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--core", type=int, help="core that all of it runs on")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--process", choices=("plain", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        print(json.dumps(parts(options.process, options.model)))
        return
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    taken: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
    for turn in range(options.rounds + 1):  # the first round compiles
        for kind, rounds in taken.items():
            found = measured(kind, options)
            rounds.extend([found] if turn else [])
    case: dict[str, Any] = {"name": "first effect", "threads": options.threads}
    for kind, rounds in taken.items():
        case[kind] = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        print(f"{kind:6}", ", ".join(f"{name} {seconds:.2f}" for name, seconds in case[kind].items()))
    own = sum(case["ours"].values()) - case["ours"]["libraries"]
    case["beyond_load_s"] = own - case["plain"]["load"]
    case["beyond_runs_s"] = case["beyond_load_s"] - case["plain"]["base run"] - case["plain"]["donor run"]
    print(
        f"beyond plain load {case['beyond_load_s']:.2f} s; base and donor run taken off {case['beyond_runs_s']:.2f} s"
    )
    write_cases(options.json, [case])


if __name__ == "__main__":
    main()
