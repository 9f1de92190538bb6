"""A process that has loaded what ``cotrace`` needs and forks one command line after another, each started at once.

It reads JSON lines: ``{"arguments": [...], "output": FILE, "most_bytes": N}`` is answered by a process id,
``{"wait": ID}`` by how that process ended, as ``subprocess`` says it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from typing import Any
from unittest import mock


def serve() -> None:
    """Answer every line until there are no more."""
    warm()
    for line in sys.stdin:
        asked = json.loads(line)
        said = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]) if "wait" in asked else start(asked)
        print(json.dumps(said), flush=True)  # noqa: T201


def warm() -> None:
    """Load everything by a first run, without gradients and figures: those have threads, which a fork would lose."""
    from cotrace import report
    from cotrace.cli.main import run

    assert report.write  # loads the drawing, which ``figures`` below would use
    asked = ["--model", "shipped", "--task", "demo_conflict", "--search", "topk", "--max-size", "1"]
    with tempfile.TemporaryDirectory() as folder, mock.patch("cotrace.cli.runner.figures", return_value={}):
        code = run(["trace", *asked, "--evaluation", "none", "--quiet", "--out", f"{folder}/run"])
        code += run(["resume", f"{folder}/run", "--quiet"])
    assert code == 0


def start(asked: dict[str, Any]) -> int:
    """Fork a command line; its process id."""
    child = os.fork()
    if child == 0:
        os._exit(become(asked))
    return child


def become(asked: dict[str, Any]) -> int:
    """The command line itself, in the process that was forked for it."""
    from cotrace.cli.main import run

    output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for own, theirs in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(own, theirs)
    if asked.get("most_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["most_bytes"],) * 2)
    code = run(asked["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
