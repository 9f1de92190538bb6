"""The user's own metric: by file, module and callable, and everything it may get wrong."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cotrace.errors import InputError
from cotrace.metrics import Answers, Metric, metric_named
from cotrace.problem import LanguageProblem
from tests import tiny

FILE = """
def margin(scores, answers):
    return scores[..., 0] - scores[..., 1]

def first_token(logits, answers):
    return logits[..., 7]

constant = 3

def one(scores):
    return scores

def breaks(scores, answers):
    return scores["a"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def problem(metric: object) -> LanguageProblem:
    return LanguageProblem(tiny.model("gpt2"), tiny.task(), metric=metric, holdout=0)  # type: ignore[arg-type]


def test_a_file_gives_the_change_of_its_level_with_exact_gradient(file: Path) -> None:
    own = problem(f"{file}:margin")
    z = torch.full((12,), 0.4, dtype=torch.float64)
    scores = own.scores(torch.stack([z, torch.zeros_like(z)]))
    level = scores[..., 0] - scores[..., 1]
    assert torch.allclose(own.effects(z), level[0] - level[1], atol=1e-12)
    step = torch.zeros_like(z).index_fill(0, torch.tensor([3]), 1e-5)
    difference = (own.value(z + step) - own.value(z - step)) / 2e-5
    assert own.gradient(z)[3].item() == pytest.approx(difference.item(), rel=1e-6)


def test_a_first_parameter_named_logits_gets_the_last_prompt_positions_logits(file: Path) -> None:
    own = problem(f"{file}:first_token")
    model = tiny.model("gpt2")
    for i, pair in enumerate(tiny.task().pairs):
        ids = model.require_tokenizer()(pair.base, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model.module(ids).logits[0, -1]
        assert own.training.scorer.base[i].tolist() == pytest.approx(logits.tolist(), abs=1e-10)
        assert own.training.base_levels[i].item() == pytest.approx(logits[7].item(), abs=1e-10)


def test_a_module_and_a_callable_are_metrics_too() -> None:
    named = metric_named("tests.metrics.test_own:level")
    assert isinstance(named, Metric)
    assert named.name == "level"
    assert torch.equal(
        problem(level).effects(torch.ones(12)), problem("tests.metrics.test_own:level").effects(torch.ones(12))
    )


def level(scores: Tensor, answers: Answers) -> Tensor:
    return scores.sum(-1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "has no function 'nothing'"),
        ("constant", "has no function 'constant'"),
        ("one", r"cannot be called with two arguments; write it as f\(scores, answers\)"),
    ],
)
def test_a_file_without_a_fitting_function_is_refused(file: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metric_named(f"{file}:{name}")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no/such/file.py:f", "there is no file"),
        (f"{Path(__file__).parent}/ok.jsonl:f", "ok.jsonl is no Python file; name one that ends in .py, or a module"),
        ("no_such_module_here:f", "cannot import no_such_module_here: ModuleNotFoundError"),
        ("file.py:", "name it as package.module:function"),
    ],
)
def test_places_that_do_not_exist_are_named(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        metric_named(spec)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda scores, answers: scores, r"returns shape \[1, 6, 2\], not \[mask, example\], here \[1, 6\]"),
        (lambda scores, answers: scores.mean(), r"returns shape \[\]"),
        (lambda scores, answers: 1.0, "returns float, not a tensor"),
        (lambda scores, answers: scores.argmax(-1), "returns torch.int64, which has no gradient"),
        (lambda scores, answers: scores[..., 0] * float("nan"), "returns numbers that are not finite"),
        (lambda scores, answers: scores[9], "fails: IndexError"),
    ],
)
def test_wrong_results_are_one_line(function: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        problem(function)
    assert "\n" not in str(caught.value)


def test_a_metric_without_gradient_is_refused_where_one_is_needed() -> None:
    own = problem(lambda scores, answers: scores.detach()[..., 0])
    with pytest.raises(InputError, match="has no gradient"):
        own.gradient(torch.zeros(12))
