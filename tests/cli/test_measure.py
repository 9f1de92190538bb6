"""``cotrace measure`` on the model that ships."""

import json
from pathlib import Path

import pytest

from cotrace.cli.main import run


def test_measure_prints_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    command = ["measure", "--model", "shipped", "--task", "demo_agreement", "--metric", "accuracy", "--json", str(out)]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "accuracy of shipped on demo_agreement" in shown
    assert "plural" in shown
    assert "singular" in shown
    rows = {row["value"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["all pairs"]["base"] > 0.9 > 0.1 > rows["all pairs"]["donor"]
    assert rows["all pairs"]["pairs"] == 120


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metric", "acuracy"], "did you mean 'accuracy'"),
        (["--metric", "nowhere.py:f"], "there is no file nowhere.py"),
        (["--by", "colour"], "unknown field 'colour'"),
        (["--metric", "demographic_parity_gap"], "120 of 120 pairs have no 'favourable'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "shipped", "demo_agreement", *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cotrace:")]
    assert len(lines) == 1
    assert words in lines[0]
