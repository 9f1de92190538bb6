"""The snippets in the libraries that they are written for, where those are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import cotrace as ct
from cotrace import interchange
from cotrace.interchange import About
from tests import tiny

RUN = """
import json, runpy, sys
snippet = runpy.run_path(sys.argv[1])
model, tokenizer = snippet["load"]()
pairs = json.load(open(sys.argv[2]))
nothing = type(snippet["PATCHED"])()
print(json.dumps([
    [snippet["answer_scores"](model, tokenizer, *pair, patched=patched) for pair in pairs]
    for patched in (snippet["PATCHED"], nothing)
]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("tool", ["transformer_lens", "nnsight"])
def test_the_library_gives_the_same_scores(tool: str, family: str, tmp_path: Path) -> None:
    """In a process of its own: both libraries change transformers while they run."""
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    names = ["L0.head1", "L2.head3", "L1.neuron7", "L2.coord12", "L0.mlp", "L1.resid"]
    chosen = ct.Selection.parse(names)
    source = tiny.model(family, torch.float32)
    source.module.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    model = ct.load_model(str(tmp_path / "model"))
    sites = list(dict.fromkeys(member.site for member in chosen.members))
    problem = ct.LanguageProblem(model, tiny.task(4), sites=sites, holdout=0)
    about = About(model=str(tmp_path / "model"), space=problem.space.components)
    if tool == "nnsight":
        code = interchange.nnsight(chosen, about, interchange.columns_of(model, chosen.members))
    else:
        code = interchange.transformer_lens(chosen, about)
    (tmp_path / "snippet.py").write_text(code)
    pairs = [(one.pair.base, one.pair.counterfactual, one.pair.answers) for one in problem.encoding.pairs]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    files = [str(tmp_path / "snippet.py"), str(tmp_path / "pairs.json")]
    done = subprocess.run([sys.executable, "-c", RUN, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: Any = json.loads(done.stdout.splitlines()[-1])
    mask = torch.zeros(len(problem.space))
    for scores, z in zip(found, (problem.scores(names), problem.scores(mask)), strict=True):
        torch.testing.assert_close(torch.tensor(scores), z, atol=1e-4, rtol=0)
