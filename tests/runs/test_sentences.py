"""Every generated sentence against the run it is of: the counts, intervals and tests in its files, over varied runs."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cotrace.cli.main import run as cotrace
from cotrace.cli.summary import verdict as closing
from cotrace.evaluation import Evaluation
from cotrace.report.page import report_html
from cotrace.report.page._caveats import caveats
from cotrace.report.page._run_summary import record as record_of
from cotrace.run_folder.folder import report_inputs
from cotrace.runs.citation import cite
from cotrace.runs.config_file import read_run_config
from cotrace.runs.result_files import StoredRun
from tests.conftest import records, write_lines

GAP = ["--metric", "demographic_parity_gap", "--direction", "minimise"]
RUNS: dict[str, list[str]] = {
    "plain": ["--search", "greedy"],
    "search pairs": ["--search", "greedy", "--search-pairs", "16"],
    "search pairs, nothing held out": ["--search", "topk", "--search-pairs", "10", "--holdout", "0"],
    "nothing held out": ["--search", "topk", "--holdout", "0", "--evaluation", "standard"],
    "few pairs": ["--search", "greedy", "--holdout", "0.1", "--evaluation", "standard"],
    "keep": ["--search", "greedy", "--mode", "keep", "--evaluation", "standard"],
    "odds ratio": ["--search", "pursuit", "--metric", "odds_ratio", "--evaluation", "full"],
    "target": ["--search", "topk", "--direction", "target=0.1"],
    "gap": ["--search", "greedy", *GAP, "--evaluation", "full"],
    "gap, few": ["--search", "topk", *GAP, "--holdout", "0.17", "--evaluation", "standard"],
    "gap, nothing held out": ["--search", "topk", *GAP, "--holdout", "0", "--evaluation", "full"],
    "several": ["--searches", "greedy,topk,pgbct,random", "--evaluation", "standard"],
    "audit": ["--search", "topk", "--audit", "0.2"],
    "audit alone": ["--search", "topk", "--audit", "0.2", "--holdout", "0"],
    "not judged": ["--search", "pgbct", "--evaluation", "none"],
    "largest size": ["--search", "greedy", "--max-size", "2"],
}


def asked(tiny_folder: Path, folder: Path, options: list[str]) -> list[str]:
    rows = [
        {**row, "id": f"{row['id']}-{i}", "label": i % 2, "favourable": 0, "group": "ab"[(i + j) % 2]}
        for i in range(4)
        for j, row in enumerate(records())
    ]
    pairs = write_lines(folder / "pairs.jsonl", rows)
    command = "compare" if "--searches" in options else "trace"
    given = [] if "--direction" in options else ["--direction", "maximise"]  # a model of random weights shows none
    return [command, "--model", str(tiny_folder), "--task", str(pairs), *given, *options, "--out", str(folder / "run")]


class Facts:
    """A run's files, read with nothing of ours."""

    def __init__(self, run: Path) -> None:
        self.config, self.record = read_run_config(run)
        examples = json.loads((run / "examples.json").read_text())
        self.training, self.heldout = len(examples["training"]), len(examples["heldout"])
        self.audit = 48 - self.training - self.heldout
        path = run / "evaluation.json"
        self.judged: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
        with (run / "frontier.csv").open() as file:
            self.rows = list(csv.DictReader(file))
        self.searches = list(dict.fromkeys(row["search"] for row in self.rows))

    @property
    def intervals(self) -> bool:
        return self.judged is not None and any(row["interval"] for row in self.judged["sizes"])

    @property
    def tested(self) -> int:
        return 0 if self.judged is None else sum(row["p_adjusted"] is not None for row in self.judged["sizes"])


QUICK = ("plain", "keep")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RUNS])
def test_what_is_said_of_a_run_is_so(
    name: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cotrace(asked(tiny_folder, tmp_path, RUNS[name])) == 0
    shown = capsys.readouterr().out
    facts, inputs = Facts(tmp_path / "run"), report_inputs(tmp_path / "run")
    check_cite(cite(StoredRun.read(tmp_path / "run")).paragraph, facts)
    check_record(dict(record_of(inputs)), facts)
    check_caveats(" ".join(one.text for one in caveats(inputs)), facts)
    check_closing(StoredRun.read(tmp_path / "run"), shown)
    if facts.judged is not None:
        check_verdict(facts.judged)


def check_cite(said: str, facts: Facts) -> None:
    asked_for = facts.config.search_pairs
    searched = facts.training if asked_for is None else asked_for
    assert re.search(rf"search looked on {searched} pairs?\b", said), said
    assert (f"(of {facts.training} for training, drawn by the seed" in said) == (searched < facts.training)
    assert (f"{facts.heldout} held-out pair" in said) == (facts.heldout > 0)
    assert ("No pairs were held out" in said) == (facts.heldout == 0)
    assert (f"{facts.audit} pairs set aside for an audit" in said) == (facts.audit > 0)
    assert ("split seed" in said) == (facts.heldout > 0)
    assert ("intervals" in said) == facts.intervals
    assert ("resampled" in said) == facts.intervals
    assert ("max-T" in said) == (facts.tested > 1)
    assert ("was judged" in said) == (facts.judged is not None)
    if facts.judged is not None:
        assert f"judged on {facts.judged['pairs']} {facts.judged['judged_on']} pair" in said
        assert f"level {facts.judged['level']}" in said
        assert f"{facts.judged['controls']['chains']} " in said
    found = {name: {int(row["k"]) for row in facts.rows if row["search"] == name} for name in facts.searches}
    told = said.partition("found sets of ")[2].partition(".")[0]
    for name, sizes in found.items():
        one = told if len({*map(tuple, map(sorted, found.values()))}) == 1 else _of(told, name)
        assert _sizes(one) == sizes, (name, told)


def _of(told: str, name: str) -> str:
    return next(part for part in told.split(";") if part.endswith(f"({name})"))


def _sizes(words: str) -> set[int]:
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", words):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def check_record(rows: dict[str, str], facts: Facts) -> None:
    pairs = rows["pairs"]
    assert pairs.startswith(f"{facts.training} for training")
    some = facts.config.search_pairs
    assert (f"({some} of them searched)" in pairs) == (some is not None and some < facts.training)
    assert f"{facts.heldout} held out, {facts.audit} kept for the audit, 0 refused" in pairs


def check_caveats(said: str, facts: Facts) -> None:
    assert ("was not judged" in said) == (facts.judged is None)
    assert ("Nothing was held out" in said) == (facts.heldout == 0)
    assert ("(--search-pairs)" in said) == (facts.config.search_pairs is not None)
    assert ("could not be used" in said) == bool(facts.record["pairs_refused"])
    assert ("--audit gives the final figures" in said) == (facts.audit > 0 and facts.heldout > 0)
    assert ("keep a share for the end with --audit" in said) == (facts.audit == 0 and facts.heldout > 0)
    if facts.judged is None:
        return
    assert ("There are no intervals" in said) == (not facts.intervals)
    if "There are no intervals" in said:
        assert ("they need at least 10" in said) == (facts.judged["pairs"] < 10)
    parts = facts.judged["interactions"]
    assert ("Intervals of interactions" in said) == bool(parts and any(row["interval"] for row in parts["pairs"]))


def check_closing(run: StoredRun, shown: str) -> None:
    first, said = run.frontiers[0], closing(run.frontiers[0])
    assert " ".join(said.split()) in " ".join(shown.split())
    effects = {one.k: one.effect * first.sign for one in first if one.effect is not None}
    best = max(effects.values())
    if best <= 0:
        assert "no set that was found" in said
        return
    k = int(re.search(r"(?:^|\. )\w+: (\d+) of", said)[1])  # type: ignore[index]
    assert effects[k] >= 0.9 * best
    assert all(effect < 0.9 * best for size, effect in effects.items() if size < k)
    assert ("have all of the best effect" in said) == (effects[k] == best)


def check_verdict(judged: dict[str, Any]) -> None:
    """No claim without its test, and what was not tested is called so."""
    said = " ".join(judged["verdict"])
    members = (judged["minimality"] or {"members": []})["members"]
    tested = [one for one in members if one["p_adjusted"] is not None or one["interval"]]
    assert ("shown to be needed" in said) == bool(tested)
    assert ("Whether each member is needed was not tested" in said) == bool(members and not tested)
    needed = [one for one in members if one["status"] == "needed"]
    assert all(one["p_adjusted"] <= 0.05 for one in needed)
    if tested:
        assert f"{len(needed)} of the {len(tested)} members tested" in said
    parts = judged["interactions"] or {"pairs": [], "inhibitors": [], "backups": [], "roles_untested": ""}
    assert all((one["kind"] == "not tested") == (one["interval"] is None) for one in parts["pairs"])
    assert ("Synergy and redundancy of members were not tested" in said) == bool(
        parts["pairs"] and not any(one["interval"] for one in parts["pairs"])
    )
    assert all(one["p_adjusted"] is not None and one["p_adjusted"] <= 0.05 for one in parts["inhibitors"])
    assert not (parts["backups"] and parts["roles_untested"])
    assert (f"Whether there are {parts['roles_untested']} was not tested" in said) == bool(parts["roles_untested"])
    compared = {row["search"] for row in judged["differences"] if row["interval"]}
    assert set(re.findall(r"Against (\w+) at \d+ sizes \(paired", said)) == compared
    if judged["alternatives"] and not any(row["difference"] for row in judged["alternatives"]):
        assert "whether one does as much was not tested" in said
    numbers = [row["interval"] for row in judged["sizes"]] + [judged["full_interval"]]
    assert ("95 % interval" in said) <= (any(numbers) or any(one["interval"] for one in judged["side_effects"]))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "options",
    [["--search", "greedy"], pytest.param(["--search", "greedy", *GAP], marks=pytest.mark.slow)],
    ids=["pairs", "gap"],
)
def test_a_run_judged_again_shows_its_new_figures_everywhere(
    options: list[str], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert cotrace([*asked(tiny_folder, tmp_path, options), "--evaluation", "none", "--quiet"]) == 0
    assert not any(row["p_value"] for row in Facts(run).rows)
    assert cotrace(["evaluate", str(run), "--level", "full"]) == 0
    shown = capsys.readouterr().out
    assert cotrace(["report", str(run), "--quiet"]) == 0
    judged = Facts(run).judged
    assert judged is not None
    page = (run / "report.html").read_text()
    table = page.partition("Frontier table")[2].partition("</table>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[2:]]
    points = json.loads(html.unescape(re.search(r'id="specs"[^>]*>(.*?)</script>', page)[1]))  # type: ignore[index]
    plain = json.dumps(points["charts"]["chart-frontier-heldout"])
    for row, cell in zip(judged["sizes"], cells, strict=True):
        low, high = row["interval"]
        assert f"{low:+.3g} to {high:+.3g}" in cell
        assert f"{low:+.3g} to {high:+.3g}" in plain
        if row["p_adjusted"] is not None:
            assert f"{row['p_adjusted']:.3g}" in cell
            assert f'"p": "{row["p_adjusted"]:.3g}"' in plain
            assert f"{row['p_adjusted']:.4g}" in shown
    for sentence in judged["verdict"]:
        assert sentence in shown
    assert "was not judged" not in page


def test_an_evaluation_of_another_search_judges_that_search_alone(tiny_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--searches", "greedy,topk", "--evaluation", "none", "--quiet"]
    assert cotrace(asked(tiny_folder, tmp_path, options)) == 0
    assert cotrace(["evaluate", str(run), "--search", "topk", "--level", "quick", "--quiet"]) == 0
    inputs = report_inputs(run)
    assert inputs.judged is None
    assert [one.search for one in inputs.later] == ["topk"]
    greedy, topk = inputs.frontiers
    assert not any(one.p_value for one in greedy)
    evaluation = Evaluation.from_dict(
        {k: v for k, v in json.loads((run / "evaluation.json").read_text()).items() if k != "schema"}
    )
    assert [one.p_value for one in topk] == [row.p_adjusted for row in evaluation.sizes]
    assert "The result of greedy was not judged" in report_html(inputs).decode()
    assert "in detail the set of topk" in cite(StoredRun.read(run)).paragraph


@pytest.mark.slow
def test_the_card_says_whether_pairs_were_unseen(tiny_folder: Path, tmp_path: Path) -> None:
    (text := tmp_path / "text.txt").write_text("the nurse said that she\nthe pilot said that he\n" * 6)
    for name, holdout, said in (("a", "0.3", "has not seen"), ("b", "0", "nothing was held out")):
        (folder := tmp_path / name).mkdir()
        options = ["--search", "topk", "--holdout", holdout, "--evaluation", "none", "--quiet"]
        assert cotrace(asked(tiny_folder, folder, options)) == 0
        edited = ["--k", "2", "--neutral", str(text), "--quiet", "--out", str(folder / "edited")]
        assert cotrace(["edit", str(folder / "run"), *edited]) == 0
        card = (folder / "edited" / "README.md").read_text()
        assert said in card
        assert ("has not seen" in card) == (holdout != "0")
        assert "The neutral text text is text.txt." in card
