"""RunConfig in YAML and back, settings that come as text, and the smallest selection that is enough."""

from __future__ import annotations

import re
import tempfile
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cotrace.errors import InputError
from cotrace.problem import LanguageProblem
from cotrace.runs import RunConfig
from cotrace.runs.config import identity, literal
from cotrace.runs.config_file import LIMIT_BYTES, options_in, read_config, read_run_config, write_config
from cotrace.runs.manifest import LINE, seal_text
from cotrace.runs.result_files import enough, frontier_csv, masks
from tests.report.frontiers import SETS, frontier

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=","), min_size=1).filter(
    lambda name: name == name.strip()
)
FIELDS = st.fixed_dictionaries(
    {
        "model": NAMES,
        "task": NAMES,
        "data": st.none() | NAMES,
        "sites": st.lists(NAMES, max_size=3).map(tuple),
        "searches": st.lists(NAMES, max_size=3).map(tuple),
        "mode": st.sampled_from(["swap", "keep"]),
        "holdout": st.floats(0, 1, exclude_max=True),
        "max_size": st.none() | st.integers(1),
        "search_options": st.dictionaries(
            NAMES, st.dictionaries(NAMES, st.integers() | st.booleans() | st.floats(-9, 9))
        ),
        "seed": st.integers(0, 2**63 - 1),
    }
)


@given(FIELDS)
def test_what_is_written_reads_back_the_same(fields: dict[str, Any]) -> None:
    config = RunConfig(**fields)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(write_config(config, {"versions": {"cotrace": "0"}}))
        assert read_config(path) == config


def test_every_field_is_stored_but_where_it_lies_and_trust() -> None:
    config = RunConfig(model="m", task="t", out="here", trust_remote_code=True, offload_folder="there")
    stored = yaml.safe_load(write_config(config, {}))
    left_out = {"out", "trust_remote_code", "offload_folder", "workers", "ray", "worker_gpus", "max_restarts"}
    assert set(stored) == {field.name for field in fields(RunConfig)} - left_out | {"schema", "record"}


def test_the_problem_is_given_every_option_that_it_has(tiny_folder: Path, pairs_file: Path) -> None:
    """Every argument of ``LanguageProblem`` is one of a run's options, but dictionaries, which are in the model."""
    config = RunConfig(model=str(tiny_folder), task=str(pairs_file), sites=("mlp_output",), holdout=0.25, seed=6)
    asked = config.problem()
    assert {*asked} == {*signature(LanguageProblem).parameters} - {"dictionaries"}
    problem = LanguageProblem(**asked | {"direction": "maximise"})
    assert (problem.size, problem.space.names) == (9, ["L0.mlp", "L1.mlp"])
    assert (problem.division.seed, problem.division.holdout) == (6, 0.25)


def test_options_that_came_later_do_not_change_the_question_of_a_run() -> None:
    """For a run begun before there was an option the hash is the one that cotrace 0.1.0 gave."""
    config = RunConfig(model="m", task="t", seed=3, searches=("greedy",))
    then = {field.name for field in fields(RunConfig)} - {"cost_weights"}
    assert identity(config, then) == "c345ff9079dcc81bc60799c69dda151de0f2bce46138ff9cd8b56eb6d47f0fba"
    before = then - {"judge_pairs"}
    assert identity(config, before) == identity(replace(config, judge_pairs="all"), before) != identity(config)
    assert identity(config, before) != identity(replace(config, seed=4), before)


def test_a_run_of_before_pairs_were_drawn_is_judged_by_all(tmp_path: Path) -> None:
    for record, judged in (({}, "all"), ({"pairs_judged": 4}, None)):
        text = write_config(RunConfig(model="m", task="t"), record).replace(b"judge_pairs: null\n", b"").decode()
        (tmp_path / "config.yaml").write_bytes(seal_text(text.rpartition(LINE)[0]))
        assert read_run_config(tmp_path)[0].judge_pairs == judged
        assert options_in(tmp_path) == {*yaml.safe_load(text)} - {"schema", "record"}


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_file_cannot_ask_for_code_to_be_run(tmp_path: Path, value: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"model: m\ntask: t\ntrust_remote_code: {value}\n")
    with pytest.raises(InputError, match="line 3: a file cannot ask"):
        read_config(path)


def test_a_file_cannot_say_where_weights_are_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: m\ntask: t\noffload_folder: ../../elsewhere\n")
    with pytest.raises(InputError, match=r"line 3: a file cannot say where .*--offload-folder"):
        read_config(path)


@pytest.mark.parametrize("text", ["&Q: ", "1: 2\n", "model: 2001-99-99", "? [a]\n: b", "[" * 5000, "model: m\n~: x"])
def test_what_yaml_allows_and_a_config_does_not_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


BOMB = "\n".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))
"""Nine lists, each nine times the one before."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nseed: 2", "line 4: 'seed' stands twice"),
        ("task_options: {a: 1, a: 2}", "line 3: 'a' stands twice"),
        ("<<: {seed: 1}", "line 3: << is not read"),
        ("search_options: {pgbct: {<<: {l1: 1}}}", "line 3: << is not read"),
        ('data: "a\\0b"', "line 3: holds a null byte"),
        ("donors: &a [*a]", "aliases make more"),
        (f"task_options:\n  a0: &a0 [x, x]\n{BOMB}", "aliases make more"),
    ],
)
def test_what_would_be_lost_or_hidden_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"model: m\ntask: t\n{text}\n")
    with pytest.raises(InputError, match=re.escape(words)):
        read_config(path)


def test_aliases_that_say_a_little_twice_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: m\ntask: t\nsites: &s [head_output]\nroles: *s\n")
    assert read_config(path).roles == ("head_output",)


def test_a_config_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    with pytest.raises(InputError, match="more than"):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("-0.5", -0.5),
        ("true", True),
        ("None", None),
        ("0.1,1", (0.1, 1)),
        ("logistic", "logistic"),
        (["1", 2.5], (1, 2.5)),
        (7, 7),
    ],
)
def test_literal(text: Any, value: object) -> None:
    assert literal(text) == value
    assert type(literal(text)) is type(value)


def test_names_with_commas_are_taken_apart() -> None:
    config = RunConfig(model="m", task="t", sites=("head_output, mlp_output", "mlp_neuron"), searches=("topk,random",))
    assert config.sites == ("head_output", "mlp_output", "mlp_neuron")
    assert config.searches == ("topk", "random")


@pytest.mark.parametrize("change", [{"holdout": 1.0}, {"holdout": float("nan")}, {"max_size": 0}])
def test_impossible_numbers_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError):
        RunConfig(model="m", task="t", **change)


@pytest.mark.parametrize(
    ("effects", "direction", "k"),
    [([1.0, 2.7, 3.0], "maximise", 2), ([1.0, 2.6, 3.0], "maximise", 3), ([-3.0, -2.0, -1.0], "minimise", 1)],
)
def test_enough_is_the_smallest_with_nine_tenths(effects: list[float], direction: str, k: int) -> None:
    assert enough(frontier(SETS, effects, direction=direction)).k == k


def test_enough_without_any_effect_is_the_best() -> None:
    assert enough(frontier(SETS, [-3.0, -2.0, -1.0])).k == 3


def test_masks_are_one_where_the_donor_is() -> None:
    swap, keep = frontier(SETS, [1.0, 2.0, 3.0]), frontier(SETS, [1.0, 2.0, 3.0], mode="keep")
    assert masks(swap).astype(int).tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0]]
    assert (masks(keep) == 1 - masks(swap)).all()


def test_frontier_csv_is_what_a_spreadsheet_reads() -> None:
    lines = frontier_csv([frontier(SETS, [1.0, 0.1, 1e-7], heldout=[None, 0.5, 0.25])]).decode().splitlines()
    columns = "search,k,effect,effect_heldout,ci_low,ci_high,p_value,forward_equivalents,components"
    assert lines == [
        f"{columns},reported_before,reported,reported_before_heldout,reported_heldout",
        "pursuit,1,1.0,,,,,,L0.head1,,,,",
        "pursuit,2,0.1,0.5,,,,,L0.head2 L1.head0,,,,",
        "pursuit,3,1e-07,0.25,,,,,L0.head1 L0.head2 L1.head0,,,,",
    ]
