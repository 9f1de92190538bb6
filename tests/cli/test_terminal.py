"""The screen: a drawing as wide as the terminal, colours only where they belong, and JSON for programs."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import cotrace as ct
from cotrace.cli import main
from cotrace.cli.console import Screen
from cotrace.cli.main import run
from cotrace.cli.summary import Chart
from cotrace.results import Table
from tests.problems import ClosedForm

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[[0-9;]*(?<![0-9])(?:3|4|9|10)[0-7][0-9;]*m")
"""Codes that set a colour; bold and dim are none."""


@pytest.fixture
def asked(tiny_folder: Path, pairs_file: Path) -> list[str]:
    return ["--model", str(tiny_folder), "--task", str(pairs_file), "--holdout", "0.25", "--search", "greedy"]


@pytest.fixture(scope="module")
def frontiers() -> list[ct.Frontier]:
    """Two searches on sqrt(k), which needs no model."""
    problem = ClosedForm(lambda s: s.sum(-1, keepdim=True).sqrt().expand(-1, 8).double(), n=9)
    return [ct.search.Greedy()(problem), ct.search.TopK()(problem)]


def drawn(what: Chart, width: int, *, terminal: bool, no_color: bool = False) -> str:
    file = StringIO()
    Console(file=file, width=width, force_terminal=terminal, no_color=no_color, color_system="standard").print(what)
    return file.getvalue()


@pytest.mark.parametrize("width", [50, 80, 120, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_drawing_fits_the_screen(frontiers: list[ct.Frontier], width: int, terminal: bool) -> None:
    lines = CODES.sub("", drawn(Chart(frontiers[:1]), width, terminal=terminal)).splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) >= min(width, 110) - 10, "and uses it"


def test_marks_without_colours_and_braille_with(frontiers: list[ct.Frontier]) -> None:
    plain = drawn(Chart(frontiers), 80, terminal=False)
    assert "\x1b" not in plain
    assert "++ greedy" in plain
    assert "oo topk" in plain
    assert not re.search("[\u2801-\u28ff]", plain)
    assert COLOURS.search(drawn(Chart(frontiers), 80, terminal=True))
    assert re.search("[\u2801-\u28ff]", drawn(Chart(frontiers), 80, terminal=True))
    assert not COLOURS.search(drawn(Chart(frontiers), 80, terminal=True, no_color=True))


def test_the_curve_is_where_the_effects_are(frontiers: list[ct.Frontier]) -> None:
    """sqrt(k) from 1 to 3 over k = 1..9: lowest left, highest right, bending to the right below the diagonal's top."""
    lines = [line[1:] for line in drawn(Chart(frontiers[:1]), 80, terminal=False).splitlines() if line.startswith("│")]
    heights = {}
    for row, line in enumerate(lines):
        for column, sign in enumerate(line.split("│")[0]):
            if sign == "+":
                heights.setdefault(column, row)
    columns = sorted(heights)
    rows = [heights[column] for column in columns]
    assert rows == sorted(rows, reverse=True)
    middle = heights[columns[len(columns) // 2]]
    assert middle < (rows[0] + rows[-1]) / 2, "a root is above its chord"


def test_a_frontier_of_one_size_is_not_drawn(frontiers: list[ct.Frontier]) -> None:
    from dataclasses import replace

    one = replace(frontiers[0], selections=frontiers[0].selections[:1])
    assert drawn(Chart([one]), 80, terminal=True) == ""


def test_json_is_all_of_stdout_and_equals_the_csv(
    asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(["compare", *asked, "--search", "topk", "--out", str(out), "--json"]) == 0
    printed, err = capfd.readouterr()
    data = json.loads(printed)
    assert printed.count("\n") == 1
    assert "greedy: done" in err, "progress goes on, on stderr"
    with (out / "frontier.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(data["frontier"]) == 8
    for row, told in zip(rows, data["frontier"], strict=True):
        assert list(row) == list(told)
        assert row["components"].split() == told["components"]
        for name in ("k", "effect", "effect_heldout", "ci_low", "ci_high", "p_value", "forward_equivalents"):
            assert (float(row[name]) if row[name] else None) == told[name], name
    assert {name: Path(path) for name, path in data["files"].items()} == {
        path.name: path for path in out.iterdir() if path.name != ".lock"
    }
    assert data["chosen"]["components"] == json.loads((out / "selection.json").read_text())["chosen"]["components"]
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert data["verdict"] == evaluation["verdict"]
    assert run(["evaluate", str(out), "--level", "quick", "--json", "--quiet"]) == 0
    printed, err = capfd.readouterr()
    assert err == ""
    assert json.loads(printed)["evaluation"]["verdict"]
    for command in (["trace", *asked], ["evaluate", str(out)]):
        assert run([*command, "--dry-run", "--json"]) == 0
        assert json.loads(capfd.readouterr().out)


def test_figures_of_measure_and_check_go_to_stdout_too(
    asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, task = asked[1], asked[3]
    for command in (["measure", model, task], ["check", model, "--task", task, "--sites", "head_output"]):
        path = tmp_path / command[0]
        assert run([*command, "--json", str(path)]) == 0
        capfd.readouterr()
        assert run([*command, "--json=-"]) == 0
        assert json.loads(capfd.readouterr().out) == json.loads(path.read_text())


def in_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """What a real terminal of that width is sent."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", **environment}
    for name in {"NO_COLOR", "COLUMNS", "FORCE_COLOR"} - environment.keys():
        environment.pop(name, None)
    with subprocess.Popen(
        [sys.executable, "-m", "cotrace", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        sent = b""
        while select.select([ours], [], [], 120)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            sent += part
        assert process.wait(timeout=60) == 0, sent.decode()
    os.close(ours)
    return sent.decode()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is Unix's")
def test_a_real_terminal(asked: list[str], tmp_path: Path) -> None:
    """Colours, a bar that names phase, k, effect, cost and memory, and no line wider than the terminal."""
    coloured = in_terminal(80, "trace", *asked, "--evaluation", "none", "--out", str(tmp_path / "a"))
    assert COLOURS.search(coloured)
    told = r"forward \d/4, best [+-][\d.]+ with k = \d, [\d,]+ forward-equivalents, [\d.]+ [MG]iB held"
    assert re.search(told, CODES.sub("", coloured))
    lines = [line for line in CODES.sub("", coloured).splitlines() if set(line) & set("│┌└")]
    assert lines
    assert max(map(len, lines)) <= 80
    plain = in_terminal(80, "trace", *asked, "--evaluation", "none", "--out", str(tmp_path / "b"), NO_COLOR="1")
    assert not COLOURS.search(plain)
    assert "++ training pairs" in CODES.sub("", plain)


HOSTILE = "a\x1b]0;title\x07\x1b[31mred\x9b1m\u202eback \u05d0 [bold]b[/] [/]"
SHOWN = r"a\x1b]0;title\x07\x1b[31mred\x9b1m\u202eback " + "\u05d0 [bold]b[/] [/]"


def test_texts_do_nothing_to_the_terminal_but_show(capfd: pytest.CaptureFixture[str]) -> None:
    """Prompts, names and paths come from files: no sign of theirs steers the terminal or turns its lines."""
    screen = Screen()
    screen.say(HOSTILE)
    screen.say(Table(HOSTILE, (HOSTILE, "n"), [(HOSTILE, "1")], frozenset({0})))
    screen.note(HOSTILE)
    out, err = capfd.readouterr()
    assert SHOWN in err
    assert out.count(SHOWN) == 4
    assert not set("\x1b\x07\x9b\u202e") & set(out + err)
    assert str(Table(HOSTILE, (HOSTILE,), [(HOSTILE,)], frozenset({0}))).count(SHOWN) == 3


@pytest.mark.parametrize("say", [main._say, main._show_warning])
def test_errors_and_warnings_do_not_either(say: Callable[[str], None], capfd: pytest.CaptureFixture[str]) -> None:
    say(f"one\n{HOSTILE}\ud800")
    err = capfd.readouterr().err
    assert SHOWN in err
    assert err.count("\n") == 1
    assert not set("\x1b\x07\x9b\u202e") & set(err)


@pytest.mark.parametrize("command", ["measure", "check"])
def test_figures_that_have_no_place_are_refused_before_anything_is_loaded(
    command: str, asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = [asked[3]] if command == "measure" else []
    (there := tmp_path / "there.json").write_text("mine")
    for place, reason in (
        (tmp_path / "none" / "x.json", "there is no folder"),
        (tmp_path, "is a folder"),
        (there, f"the output {there} exists already: name a new file with --json"),
    ):
        assert run([command, asked[1], *task, "--json", str(place)]) == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1
        assert reason in err
        assert "loading" not in err
    assert there.read_text() == "mine"


def test_figures_are_written_whole_and_through_links_and_into_pipes(tmp_path: Path) -> None:
    from cotrace.cli.console import check_figures, write_figures

    real, link, pipe = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    write_figures(str(link), {"a": 1}, Screen())
    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"a": 1}
    os.mkfifo(pipe)
    check_figures(str(pipe))
    handle = os.open(pipe, os.O_RDWR)
    write_figures(str(pipe), {"b": 2}, Screen())
    assert json.loads(os.read(handle, 1000)) == {"b": 2}
    os.close(handle)
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "pipe", "real.json"]
