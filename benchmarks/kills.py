"""A run killed at random moments, resumed until it ends, and compared byte by byte; as often as is asked for.

    python -m benchmarks.kills --kills 300 --json kills.json

The test suite does the same with fewer kills (tests/faults/test_kills.py).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from tests.faults.harness import Commands, Kills, begin


def main() -> None:
    """Kill, resume, compare; the first difference ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Commands.serving(Path(folder)) as commands:
        kills = begin(commands, seed=asked.seed)
        while kills.kills < asked.kills:
            kills.go(min(asked.kills, kills.kills + 10))
            print(f"{kills.kills} kills, {kills.resumes} resumes, {kills.runs} runs ended, all the same", flush=True)
    figures = counted(kills) | {"elapsed_s": time.perf_counter() - began}
    print(json.dumps(figures, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1) + "\n")


def counted(kills: Kills) -> dict[str, object]:
    """What was counted."""
    return {name: getattr(kills, name) for name in ("kills", "resumes", "runs", "life_s", "moments")}


if __name__ == "__main__":
    main()
