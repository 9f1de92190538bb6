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
from cotrace.cli.handing_out import read_prompts
from cotrace.cli.main import run as cotrace
from cotrace.components import Component
from cotrace.donors import donor_source
from cotrace.errors import CotraceError
from cotrace.interchange import read_selection
from cotrace.prompts import Task
from cotrace.report import report_html
from cotrace.report.page import EXAMPLES
from cotrace.results import EditPoint, Outcome, Selection, Tradeoff
from cotrace.run_folder.folder import TRADEOFF, report_inputs
from cotrace.runs.addenda import EVALUATION, with_effects
from cotrace.runs.citation import cite
from cotrace.runs.config_file import read_config
from cotrace.runs.directory import MANIFEST
from cotrace.runs.manifest import Manifest, add_files
from cotrace.runs.result_files import StoredRun

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
DONORS = b"counterfactual\nnoise=0.6\nnoise=3x@subject\nnoise=3x\nzero\nmean=task\nmean=position\nresample\n"
DONORS += b"resample=1\nscale=0.2"


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
    """Parse each line as a name, those behind a wrong one too; the first error goes up at the end."""

    def each(content: bytes) -> object:
        errors = []
        for line in content.decode("utf-8", "replace").split("\n"):
            try:
                parse(line)
            except CotraceError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return None

    return each


@cache
def finished_run() -> Path:
    """A small finished run."""
    folder = scratch() / "run"
    words = ["trace", "--model", "shipped", "--task", "demo_bias", "--max-size", "2", "--search", "topk", "--quiet"]
    assert cotrace([*words, "--evaluation", "quick", "--out", str(folder)]) == 0
    add_files(folder, {TRADEOFF: tradeoff().to_json()})
    return folder


def tradeoff() -> Tradeoff:
    """A trade-off such as ``cotrace edit`` leaves in a run."""
    words = {"task": "demo_bias", "metric": "log_odds"}
    outcome = Outcome(**words, pairs=60, before=1.5, after=0.5, after_interval=(0.25, 0.75))
    side = Outcome(task="text", metric="nll", pairs=10, before=2.0, after=2.1, change_interval=(0.0, 0.2))
    edit = {"k": 1, "donor": "zero", "factor": 0.0, "components": ("L1.head0",), "outcome": outcome, "sides": (side,)}
    point = EditPoint(**edit, strength=1.0, strength_heldout=1.0, harms=(0.05,), pareto=True)
    return Tradeoff(**words, aim="zero", points=(point,), harms=("nll on text: rise",), constraints=("nll <= 10 %",))


def run_file(name: str, listed: bool, then: Callable[[StoredRun], object]) -> Callable[[bytes], object]:
    """Read a run in which one file has another content; ``listed`` in its manifest, so that the content is reached."""

    def read(content: bytes) -> object:
        folder = scratch() / f"run-{name}"
        if not folder.exists():
            shutil.copytree(finished_run(), folder)
            lighten(folder, name)
        (folder / name).write_bytes(content)
        if listed:
            Manifest.of(folder).write()
        return then(StoredRun.read(folder))

    return read


def lighten(folder: Path, name: str) -> None:
    """Leave out what the readers of this file do not look at: hashing and parsing it again takes most of the time."""
    if name not in ("selection.json", "effects.safetensors"):
        return
    for path in folder.iterdir():
        if path.name not in (name, "config.yaml", "selection.json"):
            path.unlink()


def with_all_effects(stored: StoredRun) -> object:
    """What every command reads."""
    return [with_effects(stored.path, frontier) for frontier in stored.frontiers]


def looked_at(stored: StoredRun) -> object:
    """What ``report`` and ``cite`` make of a run."""
    return report_html(report_inputs(stored.path)), cite(stored).text


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
        Reader("ioi", [prompts], file("ioi_vanilla_template_prompts.json", tasks.ioi)),
        Reader("auto_circuit", [prompts], file("prompts.json", tasks.auto_circuit)),
        Reader("prompts", [b'{"prompt": "The nurse"}\n'], file("prompts.jsonl", lambda path: list(read_prompts(path)))),
        Reader("text", [b"One line.\nAnother.\n"], file("neutral.txt", partial(tasks.text))),
        *(
            Reader(f"run_{name}", [seed_of(name)], run_file(name, name != MANIFEST, with_all_effects))
            for name in (MANIFEST, "config.yaml", "selection.json", "effects.safetensors")
        ),
        *(
            Reader(f"run_{name}", [seed_of(name)], run_file(name, True, looked_at))
            for name in (EVALUATION, TRADEOFF, EXAMPLES)
        ),
    ]
