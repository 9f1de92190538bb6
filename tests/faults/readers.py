"""Every reader of a file or a name that comes from outside, with inputs that it takes: what fuzzing starts from."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cotrace import tasks
from cotrace.cli.main import run as cotrace
from cotrace.components import Component
from cotrace.donors import donor_source
from cotrace.errors import CotraceError
from cotrace.interchange import read_selection
from cotrace.prompts import Task
from cotrace.results import Selection
from cotrace.runs.config_file import read_config
from cotrace.runs.directory import MANIFEST
from cotrace.runs.evidence import with_effects
from cotrace.runs.manifest import Manifest
from cotrace.runs.stored import StoredRun

PAIRS = """{"id": "a", "base": "The nurse said that", "counterfactual": "The pilot said that", "answers": [" a", " b"]}
{"id": "b", "base": "Keys are", "answers": [" x"], "target": 0, "group": "g", "spans": {"subject": [0, 4]}, "weight": 2}
{"messages": [{"role": "user", "content": "Hi"}], "answers": [" a", " b"], "label": 1, "meta": {"n": 1}}
"""
CONFIG = """model: shipped
task: demo_bias
searches: [topk, pursuit]
search_options: {pursuit: {max_size: 3}}
max_size: 4
holdout: 0.25
"""
SENTENCES = """1 [The pilot] thanked the florist because [he] was glad.
2 The pilot thanked [the florist] because [she] had helped.
"""
GENDERS = {"female_occupations.txt": "florist\nnanny", "male_occupations.txt": "pilot\nroad worker\n"}
FACT = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["x"],
}
PROMPTS = {
    "prompts": [{"clean": "When A and B", "corrupt": "When A and C", "answers": [" A"], "wrong_answers": [" B"]}]
}
NAMES = b"L9.head6\n9.6\nL9H6\na9.h6\nL3.neuron1207\nL3.coord12@subject\nL5.expert3\nL9.kv2\nL9.attn\nL0.mlp\nL1.resid"
DISTINCT = NAMES.split(b"\n", 3)[-1]
"""Without the first names, which are other words for one component."""
DONORS = b"counterfactual\nnoise:std=3x,role=subject\nzero\nmean:task\nresample:seed=1\nscale=0.2\nvector=a.safetensors"


@dataclass(frozen=True)
class Reader:
    """One way in for input from outside."""

    name: str
    seeds: Sequence[bytes]
    """Inputs that it takes, or nearly."""
    read: Callable[[bytes], object]

    def try_one(self, content: bytes) -> bool:
        """Whether the input is taken; any error but the project's own goes up."""
        try:
            self.read(content)
        except CotraceError as error:
            if "\n" in str(error):
                raise AssertionError(f"{self.name}: an error of several lines: {str(error)!r}") from error
            return False
        return True


@cache
def scratch() -> Path:
    """A folder of this process's own."""
    return Path(tempfile.mkdtemp(prefix="cotrace-fuzz-"))


def file(name: str, read: Callable[[Path], object], others: dict[str, str] | None = None) -> Callable[[bytes], object]:
    """Read the content from a file of that name; ``others`` lie beside it, and its folder is what is read then."""

    def from_file(content: bytes) -> object:
        folder = scratch() / name.replace(".", "-")
        folder.mkdir(exist_ok=True)
        for other, text in (others or {}).items():
            (folder / other).write_text(text)
        (folder / name).write_bytes(content)
        return read(folder if others is not None else folder / name)

    return from_file


def lines(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Parse each line as a name."""

    def each(content: bytes) -> object:
        return [parse(line) for line in content.decode("utf-8", "replace").split("\n")]

    return each


@cache
def finished_run() -> Path:
    """A small finished run."""
    folder = scratch() / "run"
    words = ["trace", "--model", "shipped", "--task", "demo_bias", "--max-size", "2", "--search", "topk", "--quiet"]
    assert cotrace([*words, "--evaluation", "none", "--out", str(folder)]) == 0
    return folder


def run_file(name: str, listed: bool) -> Callable[[bytes], object]:
    """Read a run in which one file has another content; ``listed`` in its manifest, so that the content is reached."""

    def read(content: bytes) -> object:
        folder = scratch() / f"run-{name}"
        if not folder.exists():
            shutil.copytree(finished_run(), folder)
        (folder / name).write_bytes(content)
        if listed:
            Manifest.of(folder).write()
        stored = StoredRun.read(folder)
        return [with_effects(folder, frontier) for frontier in stored.frontiers]

    return read


def seed_of(name: str) -> bytes:
    """The file as the run wrote it."""
    return (finished_run() / name).read_bytes()


def readers() -> list[Reader]:
    """All of them. Makes one small run."""
    facts, prompts = json.dumps([FACT]).encode(), json.dumps(PROMPTS).encode()
    winogender = {"occupations-stats.tsv": "occupation\tbergsma_pct_female\tbls_pct_female\nnurse\t80\t88.3\n"}
    occupations = {"female_occupations.txt": "nurse\n", "male_occupations.txt": "pilot\n"}
    template = b"occupation(0)\tother-participant(1)\tanswer\tsentence\nnurse\tpatient\t0\tThe $OCCUPATION told the "
    return [
        Reader("json_lines", [PAIRS.encode()], file("pairs.jsonl", Task.from_jsonl)),
        Reader("config", [CONFIG.encode(), seed_of("config.yaml")], file("config.yaml", read_config)),
        Reader("component_names", [NAMES], lines(Component.parse)),
        Reader("selection_names", [NAMES], lines(lambda line: Selection.parse(line.split()))),
        Reader("donor_names", [DONORS], lines(donor_source)),
        Reader("selection_files", [seed_of("selection.json"), DISTINCT], file("selection.json", read_selection)),
        Reader("winobias", [SENTENCES.encode()], file("pro_stereotyped_type1.txt.dev", tasks.winobias, GENDERS)),
        Reader("winogender", [template], file("templates.tsv", tasks.winogender, winogender)),
        Reader("professions", [b"The {} said that\n"], file("templates.txt", tasks.professions, occupations)),
        Reader("counterfact", [facts], file("counterfact.json", tasks.counterfact)),
        Reader("auto_circuit", [prompts], file("prompts.json", tasks.auto_circuit)),
        Reader("text", [b"One line.\nAnother.\n"], file("neutral.txt", partial(tasks.text))),
        *(
            Reader(f"run_{name}", [seed_of(name)], run_file(name, listed=name != MANIFEST))
            for name in (MANIFEST, "config.yaml", "selection.json", "effects.safetensors")
        ),
    ]
