"""The documentation names every option, column and file that there is, and its Python is valid."""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import fields
from pathlib import Path

import pytest

from cotrace.cli import main
from cotrace.cli.main import build, run
from cotrace.results.frontier_file import COLUMNS
from cotrace.runs import RunConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def options_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The long options in a command's help."""
    assert run([command, "--help"]) == 0
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out))


@pytest.mark.parametrize("command", ["trace", "compare"])
def test_the_command_line_page_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    shown = options_of(command, capsys) - {"--help"}
    assert len(shown) >= len(fields(RunConfig)), "every field is an option"
    assert {option for option in shown if f"`{option}" not in page} == set()


def test_the_table_of_options_is_the_list_of_a_run_s(capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is an option of ``RunConfig`` or of the two commands, and none is missing."""
    page = (ROOT / "docs" / "cli.md").read_text()
    table = page.partition("## Options of `trace` and `compare`")[2].partition("\n\n")[0]
    listed = re.findall(r"`(--[a-z][a-z-]+)[^`]*`", "\n".join(row.split(" | ")[0] for row in table.splitlines()))
    assert len(listed) == len(set(listed))
    assert {*listed} == options_of("trace", capsys) - {"--help"}


def test_the_command_line_page_names_every_command_and_column() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for command in build():
        assert command.startswith("-") or f"`cotrace {command}" in page
    assert f"`{', '.join(COLUMNS)}`" in page


def test_every_field_is_explained_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", "--help"]) == 0
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    for phrase in ("Number type of the weights", "Share of the pairs that the search never sees", "replays a run"):
        assert phrase in words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_parses_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(block)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def test_the_quickstart_uses_no_name_that_it_has_not_made() -> None:
    """Its blocks are meant to be typed one after the other."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL)
    names = [node for node in ast.walk(ast.parse("\n".join(blocks))) if isinstance(node, ast.Name)]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {"ct"}
    assert {node.id for node in names} - made - set(dir(builtins)) == set()


def test_contributing_names_files_that_are_there() -> None:
    """A pair's way and a mask's way go through files as they are now."""
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 10
    for path in named:
        assert (ROOT / "src" / "cotrace" / path).is_file() or (ROOT / path).is_file(), path


def test_every_exit_code_is_in_the_table() -> None:
    table = (ROOT / "docs" / "cli.md").read_text().partition("## Exit codes")[2]
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(",")}
    assert codes == {main.OK, main.OURS, main.USERS, main.INTERRUPTED, main.UNHEARD, 129, 143}
