"""What fault tests share: command lines that can be killed, and what must hold of a run directory at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil
import torch
from safetensors.numpy import load_file

from cotrace.dictionaries import Dictionary, save_dictionary
from cotrace.runs.config_file import read_run_config
from cotrace.runs.manifest import Manifest, unseal
from cotrace.shipped import pairs

SAME = ("frontier.csv", "masks.safetensors", "history.csv", "selection.json", "effects.safetensors", "evaluation.json")
"""Files whose bytes do not depend on whether, when and how often a run was interrupted."""


@dataclass(frozen=True)
class Commands:
    """Starts command lines in processes of their own, without the seconds that loading takes."""

    server: subprocess.Popen[str]
    folder: Path

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator[Commands]:
        """For as long as the context is open."""
        root = Path(__file__).parents[2]
        paths = os.pathsep.join([str(root), *sys.path])
        with subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        ) as server:
            yield cls(server, folder)
            assert server.stdin is not None
            server.stdin.close()

    def _ask(self, asked: dict[str, object]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def start(self, *arguments: str, output: str = "output.txt", most_bytes: int = 0) -> int:
        """Start a command line; its process id."""
        asked = {"arguments": arguments, "output": str(self.folder / output), "most_bytes": most_bytes}
        return self._ask(asked)

    def wait(self, process: int) -> int:
        """The exit code of a process that has ended or will; minus the signal that killed it."""
        return self._ask({"wait": process})

    def run(self, *arguments: str, most_bytes: int = 0) -> tuple[int, str]:
        """A command line to its end: exit code and all that it said."""
        return self.wait(self.start(*arguments, most_bytes=most_bytes)), self.said()

    def said(self, output: str = "output.txt") -> str:
        """What the command line of that output has said."""
        return (self.folder / output).read_text()


def kill_after(process: int, seconds: float) -> None:
    """Kill once the time has passed, unless it has ended by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(min(0.02, max(0.0, deadline - time.monotonic())))
    os.kill(process, signal.SIGKILL)


def few_pairs(folder: Path) -> Path:
    """A task of twelve pairs that the shipped model knows."""
    path = folder / "few.jsonl"
    path.write_text("\n".join(pairs("conflict").read_text().splitlines()[::10]) + "\n")
    return path


def trace_of(folder: Path) -> list[str]:
    """A trace of three searches on the shipped model in a few seconds, with a checkpoint at every step."""
    asked = ["trace", "--model", "shipped", "--task", str(few_pairs(folder)), "--holdout", "0.4", "--max-size", "3"]
    searches = ["--search", "pursuit,random,pgbct", "--option.pursuit.effort", "fast", "--option.pgbct.epochs", "4"]
    return [*asked, *searches, "--checkpoint-every-s", "0"]


def features_of(folder: Path) -> list[str]:
    """A trace of two searches on the features and the error of a random dictionary."""
    draw = torch.Generator().manual_seed(0)
    place, encoder = "blocks.2.hook_mlp_out", torch.randn(24, 96, generator=draw)
    one = Dictionary(
        name="random",
        hook=place,
        hook_out=place,
        encoder=encoder,
        bias=torch.zeros(24),
        decoder=torch.nn.functional.normalize(encoder),
        offset=torch.zeros(96),
        k=4,
    )
    held = save_dictionary(one, folder / "held")
    asked = ["trace", "--model", "shipped", "--task", str(few_pairs(folder)), "--holdout", "0.4", "--max-size", "3"]
    asked += ["--dictionaries", str(held), "--sites", "feature,error"]
    asked += ["--search", "pursuit,random", "--option.pursuit.effort", "fast", "--cost-weights", "feature=0.1"]
    return [*asked, "--checkpoint-every-s", "0"]


def begin(commands: Commands, seed: int, arguments: list[str] | None = None, name: str = "whole") -> Kills:
    """A run that is to be killed, once it has been made without."""
    whole, arguments = commands.folder / name, arguments or trace_of(commands.folder)
    commands.run("tasks", "--quiet")  # the server has loaded everything once this is done
    began = time.monotonic()
    code, said = commands.run(*arguments, "--out", str(whole))
    assert code == 0, said
    return Kills(commands, arguments, whole, time.monotonic() - began, Random(seed))


@dataclass
class Kills:
    """A run that is killed at random moments and resumed until it ends, again and again."""

    commands: Commands
    arguments: list[str]
    whole: Path
    """The same run, never interrupted."""
    life_s: float
    """About how long it takes."""
    random: Random
    kills: int = 0
    runs: int = 0
    resumes: int = 0
    moments: dict[str, int] = field(default_factory=dict)
    """What the run directory held when it was killed, and how often."""

    def go(self, kills: int) -> None:
        """Kill so many times; every run is brought to its end and compared."""
        while self.kills < kills:
            self.one(self.commands.folder / f"{self.whole.name}-killed-{self.runs}", kills)
            self.runs += 1

    def one(self, out: Path, most: int) -> None:
        """One run, killed and resumed until it ends."""
        ended = False
        while not ended:
            ended = not self.killed(self.commands.start(*self.next_command(out)), self.kills < most)
            check_readable(out)
            self.note(out)
        for name in SAME:
            assert (out / name).read_bytes() == (self.whole / name).read_bytes(), f"{out / name} differs"
        Manifest.read(out).check(SAME)
        assert not (out / "checkpoint").exists()

    def note(self, out: Path) -> None:
        """Count what the directory holds."""
        stage = stage_of(out)
        self.moments[stage] = self.moments.get(stage, 0) + 1

    def next_command(self, out: Path) -> list[str]:
        """The run itself, where nothing has begun; otherwise its going on."""
        if not (out / "config.yaml").exists():
            return [*self.arguments, "--out", str(out)]
        self.resumes += 1
        return ["resume", str(out)]

    def killed(self, process: int, allowed: bool) -> bool:
        """Whether the process was killed before it ended; where it ended, it ended well."""
        if allowed:
            kill_after(process, self.random.uniform(0, self.life_s))
        code = self.commands.wait(process)
        self.kills += code == -signal.SIGKILL
        # A machine that is busy now and idle then: so that kills neither come too late nor all at the beginning.
        self.life_s *= 1.03 if code else 0.9
        assert code in (0, -signal.SIGKILL), self.commands.said()
        return code != 0


def stage_of(run: Path) -> str:
    """How far a run directory has come."""
    for name, stage in (("manifest.json", "whole"), ("masks.safetensors", "writing results"), ("config.yaml", "begun")):
        if (run / name).exists():
            done = len(list(run.glob("checkpoint/done-*")))
            searching = f"{done} searches done" if any(run.glob("checkpoint/*.json")) else "no checkpoint"
            return searching if stage == "begun" else stage
    return "nothing"


def check_readable(run: Path) -> None:
    """Every file of a run directory that bears its name is whole, whatever the run is in the middle of."""
    if not run.exists():
        return
    for path in run.iterdir():
        if not path.name.startswith("."):
            check_file(path)
    for path in run.glob("checkpoint/[0-9]*.json"):
        parts = unseal(path)["parts"]
        assert all((run / "checkpoint" / name).is_file() for name in parts)
    for path in run.glob("checkpoint/[a-z]*.safetensors"):
        load_file(path)


def check_file(path: Path) -> None:
    """One file, by its kind."""
    if path.name == "config.yaml":
        read_run_config(path.parent)
    elif path.name == "manifest.json":
        manifest = Manifest.read(path.parent)
        assert not manifest.damaged()
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".safetensors":
        load_file(path)
    elif path.suffix == ".csv":
        assert path.read_text().endswith("\n")
