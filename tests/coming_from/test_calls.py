"""Every row of docs/coming-from.md in the library that it names: there and here the same numbers."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
LIBRARIES = {
    "TransformerLens": ("of_transformer_lens", "transformer-lens", 4),
    "nnsight": ("of_nnsight", "nnsight", 0),
    "EAP-IG": ("of_eap_ig", "transformer-lens", 3),
}
"""Section -> the module of its rows, the package that has to be there, and its major version."""


def calls(section: str) -> list[str]:
    """First cells of a section's table."""
    text = PAGE.read_text().partition(f"## From {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.+?) \| ", text, re.MULTILINE)[1:]


@pytest.mark.slow
@pytest.mark.parametrize("section", LIBRARIES)
def test_a_call_there_and_ours_give_the_same_numbers(section: str) -> None:
    """In a process of its own: the libraries change transformers while they run."""
    rows, package, major = LIBRARIES[section]
    try:
        found = int(version(package).split(".")[0])
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install 'cotrace[oracles]'")
    if found != major or (section == "EAP-IG" and find_spec("eap") is None):
        pytest.skip(f"{rows}.py says how it is run: {section} needs an environment of its own")
    command = [sys.executable, "-m", f"tests.coming_from.{rows}"]
    done = subprocess.run(command, cwd=PAGE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(json.loads(done.stdout.splitlines()[-1])) == calls(section)


@pytest.mark.parametrize("section", LIBRARIES)
def test_every_row_of_the_page_is_compared(section: str) -> None:
    """Without the library: its module names the rows of the page in their order."""
    tree = ast.parse((Path(__file__).parent / f"{LIBRARIES[section][0]}.py").read_text())
    marks = [mark for one in tree.body if isinstance(one, ast.FunctionDef) for mark in one.decorator_list]
    named = [one.args[0] for one in marks if isinstance(one, ast.Call) and getattr(one.func, "id", "") == "row"]
    assert [ast.literal_eval(one) for one in named] == calls(section)
