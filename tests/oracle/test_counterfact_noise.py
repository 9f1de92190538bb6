"""CounterFact as a whole: records, noise of the user's own and the odds, against plain forward passes with hooks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cotrace import tasks
from cotrace.donors import Noise
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.prompts import PromptPair, Task
from tests import tiny

FACTS = (
    ("w1 w2 {} w3", "w7 w8 w9", "w4"),
    ("{} w5", "w10", "w6 w11"),
    ("w12 {} w13 w14 w15", "w16 w17", "w18 w19 w20"),
    ("w21 {}", "w22 w23", "w24"),
)
"""Prompt, subject and answer: prompts and answers of different lengths."""
WIDTH = 32


def facts(folder: Path) -> Task:
    """The records as the authors write them, read by the loader."""
    records = [
        {
            "case_id": number,
            "requested_rewrite": {
                "prompt": prompt,
                "subject": subject,
                "target_true": {"str": answer},
                "target_new": {"str": "w0"},
            },
        }
        for number, (prompt, subject, answer) in enumerate(FACTS)
    ]
    (folder / "counterfact.json").write_text(json.dumps(records))
    return tasks.counterfact(folder)


def mlps(model: LanguageModel) -> list[nn.Module]:
    inner = model.module.transformer.h if hasattr(model.module, "transformer") else model.module.model.layers
    return [layer.mlp for layer in inner]


@contextmanager
def hooked(module: nn.Module, change: Any) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _, __, output: change(output))
    try:
        yield
    finally:
        handle.remove()


class Plain:
    """One fact run without the package: its answer's probability as it is, with noise, and with MLPs exchanged."""

    def __init__(self, model: LanguageModel, pair: PromptPair, noise: Tensor) -> None:
        ids = model.require_tokenizer()
        self.model, self.prompt = model, ids(pair.base)["input_ids"]
        self.tokens = torch.tensor([self.prompt + ids(pair.answers[0])["input_ids"]])
        behind = self.tokens.shape[1] - len(self.prompt)
        self.noise = torch.cat([noise, torch.zeros(behind, WIDTH)])

    def log_probability(self) -> float:
        with torch.no_grad():
            logits = self.model.module(input_ids=self.tokens).logits[0].log_softmax(-1)
        at = range(len(self.prompt), self.tokens.shape[1])
        return sum(logits[i - 1, self.tokens[0, i]].item() for i in at)

    def noised(self) -> tuple[float, list[Tensor]]:
        """With the noise on the prompt's embeddings: log-probability, and what each MLP gives at the prompt."""
        seen: list[Tensor] = []
        with ExitStack() as stack:
            embeddings = self.model.module.get_input_embeddings()
            stack.enter_context(hooked(embeddings, lambda output: output + self.noise))
            for mlp in mlps(self.model):
                stack.enter_context(hooked(mlp, lambda output: seen.append(output[0, : len(self.prompt)].clone())))
            found = self.log_probability()
        return found, seen

    def exchanged(self, z: Tensor) -> float:
        """With the noised run's MLP outputs blended in at the prompt; ``z`` is [layer, coordinate]."""

        def blend(output: Tensor, layer: int) -> Tensor:
            new, n = output.clone(), len(self.prompt)
            new[0, :n] = (1 - z[layer]) * output[0, :n] + z[layer] * donors[layer]
            return new

        donors = self.noised()[1]
        with ExitStack() as stack:
            for layer, mlp in enumerate(mlps(self.model)):
                stack.enter_context(hooked(mlp, lambda output, layer=layer: blend(output, layer)))
            return self.log_probability()


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny.model(request.param)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return facts(tmp_path)


@pytest.fixture
def noise(task: Task) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = {pair.id: (len(pair.base.split()), WIDTH) for pair in task.pairs}
    return {name: 0.6 * torch.randn(size, generator=generator, dtype=torch.float64) for name, size in shape.items()}


def effects(model: LanguageModel, task: Task, noise: dict[str, Tensor], site: str, z: Tensor | None) -> list[float]:
    problem = LanguageProblem(model, task, sites=[site], donors=Noise(tensors=noise), holdout=0)
    assert problem.metric == "odds_ratio"
    assert problem.training.ids == [pair.id for pair in task.pairs]
    found: list[float] = problem.effects(torch.ones(len(problem.space)).double() if z is None else z).tolist()
    return found


def test_the_whole_residual_stream_gives_the_noised_run(
    model: LanguageModel, task: Task, noise: dict[str, Tensor]
) -> None:
    """p_base / p_noised - 1 for answers of one token; a second one reads the prompt's embeddings in the first layer,
    which lie before every site.
    """
    one = [len(pair.answers[0].split()) == 1 for pair in task.pairs]
    runs = [Plain(model, pair, noise[pair.id]) for pair in task.pairs]
    expected = [
        math.exp(run.log_probability() - run.noised()[0]) - 1 for run, use in zip(runs, one, strict=True) if use
    ]
    assert min(map(abs, expected)) > 1e-2, "the noise does something"
    found = [effect for effect, use in zip(effects(model, task, noise, "residual", None), one, strict=True) if use]
    assert len(found) == 2
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("soft", [False, True], ids=["all", "soft"])
def test_mlp_coordinates_take_the_noised_runs_values(
    model: LanguageModel, task: Task, noise: dict[str, Tensor], soft: bool
) -> None:
    """The site that the task names: all coordinates exchanged, and each by a share of its own."""
    layers = len(mlps(model))
    z = torch.ones(layers, WIDTH).double()
    if soft:
        z = torch.rand(layers, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    runs = [Plain(model, pair, noise[pair.id]) for pair in task.pairs]
    expected = [math.exp(run.log_probability() - run.exchanged(z)) - 1 for run in runs]
    assert min(map(abs, expected)) > 1e-3
    (site,) = task.sites
    assert effects(model, task, noise, site, z.flatten()) == pytest.approx(expected, rel=1e-10, abs=1e-10)
