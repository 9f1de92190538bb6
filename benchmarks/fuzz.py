"""Fuzz every reader, guided by coverage: `python -m benchmarks.fuzz --inputs 100000 [--reader NAME] [--json PATH]`.

Needs atheris (pip install atheris). Each reader runs in a process of its own; anything but a value or the project's own
one-line error stops it with the input that did it.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path

NAMES = (
    "json_lines", "config", "component_names", "selection_names", "donor_names", "selection_files", "winobias",
    "winogender", "professions", "counterfact", "ioi", "auto_circuit", "prompts", "text", "run_manifest.json",
    "run_config.yaml", "run_selection.json", "run_effects.safetensors", "run_evaluation.json", "run_tradeoff.json",
    "run_examples.json",
)  # fmt: skip
INSTRUMENTED = ["cotrace", "json"]


def fuzz_here(name: str, inputs: int, seed: int, corpus: Path) -> None:
    """Fuzz one reader until so many inputs have been tried; ends the process."""
    import atheris

    parsers = ["yaml"] if "config" in name else []  # where it is not what is fuzzed it would take most of the time
    with atheris.instrument_imports(include=[*INSTRUMENTED, *parsers]):
        from tests.faults.readers import readers
    warnings.simplefilter("ignore")
    logging.disable()
    reader = next(reader for reader in readers() if reader.name == name)
    for i, content in enumerate(reader.seeds):
        (corpus / f"seed{i}").write_bytes(content)
    options = [
        f"-runs={inputs}",
        f"-seed={seed}",
        "-max_len=65536",
        "-timeout=60",
        "-rss_limit_mb=4096",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], reader.try_one)
    atheris.Fuzz()


def fuzz(name: str, inputs: int, seed: int) -> dict[str, object]:
    """Fuzz one reader in a process of its own."""
    import tempfile

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cotrace-fuzz-") as folder:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--here", folder, "--reader", name]
        done = subprocess.run(
            [*command, "--inputs", str(inputs), "--seed", str(seed)], capture_output=True, text=True, check=False
        )
    crashed = done.returncode != 0
    return {
        "reader": name,
        "inputs": inputs,
        "crashed": crashed,
        "elapsed_s": round(time.perf_counter() - began, 1),
        "last_words": (done.stdout + done.stderr)[-2000:] if crashed else "",
    }


def main() -> None:
    """Print one line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--reader", choices=NAMES, action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here is not None:
        fuzz_here(asked.reader[0], asked.inputs, asked.seed, asked.here)
        return
    rows = []
    for name in asked.reader or NAMES:
        rows.append(fuzz(name, asked.inputs, asked.seed))
        last = rows[-1]
        print(f"{name:26} {asked.inputs:>9,} inputs  {'CRASHED' if last['crashed'] else 'ok':8} {last['elapsed_s']} s")
        if last["crashed"]:
            print(last["last_words"])
    if asked.json is not None:
        asked.json.write_text(json.dumps({"readers": rows}, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["crashed"] for row in rows))


if __name__ == "__main__":
    main()
