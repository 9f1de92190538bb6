"""How cost grows far beyond a few dozen pairs: the curves of ``python -m benchmarks.scaling --large``.

Each point runs in a process of its own (``python -m benchmarks.growth CURVE VALUE``), so that its memory is its own:
seconds of the processor, the most bytes held above those from before, the bytes that it would write, and the exponent
between neighbouring points, which is 1 where cost is in proportion.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from transformers import LlamaConfig

from benchmarks.shapes import prompts_of, random_model
from cotrace.batches import EncodedPair, Packing, answer_layouts
from cotrace.components import Component, ComponentSpace, Site
from cotrace.evaluation import evaluate
from cotrace.metrics import GROUPS, Answers
from cotrace.models import LanguageModel
from cotrace.problem import LanguageProblem
from cotrace.problem.protocol import Cost, Examples, Loss, Problem, inner
from cotrace.prompts import PromptPair
from cotrace.results import Frontier
from cotrace.runs.writer import run_files
from cotrace.search import Attribution, Pursuit
from cotrace.statistics import Units, counts_of, interval_of, mean_intervals

SAMPLE_S = 0.002
"""Time between two looks at the memory."""
SETS = 80
LINES = 65


@dataclass
class Measured:
    """What one point took: of the blocks that it was wrapped around only."""

    seconds: float = 0.0
    """Of the processor."""
    peak_bytes: int = 0
    """Most memory above what was held when the block began, without pages of files, which the system may take back."""
    more: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Measured:
        self._process, self._running = psutil.Process(), True
        self._before, self._began = self._held(), time.process_time()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def _held(self) -> int:
        found = self._process.memory_info()
        return int(found.rss - getattr(found, "shared", 0))

    def _look(self) -> None:
        while self._running:
            self.peak_bytes = max(self.peak_bytes, self._held() - self._before)
            time.sleep(SAMPLE_S)

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began
        self._running = False
        self._watch.join()
        self.peak_bytes = max(self.peak_bytes, self._held() - self._before)


def small_llama(layers: int = 5, vocabulary: int = 2000, length: int = 4096) -> LanguageModel:
    """The shape of the 260 K TinyStories Llama, weights random."""
    return random_model(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=172,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=vocabulary,
            max_position_embeddings=length,
        )
    )


def judged_again(problem: LanguageProblem, frontier: Frontier) -> None:
    """A ``quick`` evaluation, quietly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate(problem, frontier, level="quick")


def pairs(count: int, told: Measured) -> None:
    """Pairs of 20 tokens: set-up of the problem, then ``quick`` where every effect that it needs is stored."""
    model, task = small_llama(), prompts_of(count, 20)
    with told:
        problem = LanguageProblem(model, task, direction="maximise")
    frontier = Attribution(at="none", max_size=8)(problem)
    paid = Stored(problem.heldout), Stored(problem)
    paid[1].heldout = paid[0]
    judged_again(paid[1], frontier)  # type: ignore[arg-type]
    with told:
        judged_again(paid[1], frontier)  # type: ignore[arg-type]
    told.more["file_bytes"] = sum(map(len, run_files([frontier], ()).values()))


class Stored(Problem):
    """A problem that looks up what it has been asked before."""

    space, mode, direction, metric, size = inner("space", "mode", "direction", "metric", "size")
    task, summary, cost, weights, clusters = inner("task", "summary", "cost", "weights", "clusters")

    def __init__(self, problem: Any) -> None:
        self.problem, self._known = problem, dict[bytes, Tensor]()
        self.heldout: Any = None

    def effects(self, masks: Tensor, examples: Examples = None) -> Tensor:
        """As the problem itself, the first time."""
        key = masks.numpy().tobytes()
        if key not in self._known:
            self._known[key] = self.problem.effects(masks, examples)
        return self._known[key]

    def gradient(self, z: Tensor, objective: Loss | None = None, examples: Examples = None) -> Tensor:
        """The same of a gradient."""
        key = b"gradient" + z.numpy().tobytes()
        if key not in self._known:
            self._known[key] = self.problem.gradient(z, objective, examples)
        return self._known[key]


def judged(count: int, told: Measured) -> None:
    """Pairs in the data: ``quick`` after a search on 64 of them."""
    problem = LanguageProblem(small_llama(), prompts_of(count, 20), direction="maximise", search_pairs=64)
    frontier = Pursuit(max_size=8, effort="fast")(problem)
    with told:
        judged_again(problem, frontier)


def planning(count: int, told: Measured) -> None:
    """Pairs of 33 to 65 tokens: the batch plan alone."""
    draw = random.Random(0)
    some = PromptPair(id="one", base="one", answers=("a", "b"))
    lengths = [draw.randint(LINES // 2, LINES) for _ in range(count)]
    encoded = [
        EncodedPair(some, tuple(range(n)), ((1, 2), (3, 4, 5)[: draw.randint(1, 3)]), (), tuple(range(n)))
        for n in lengths
    ]
    with told:
        answer_layouts(encoded, range(count), Packing(packed=True, batch_tokens=16_384))


def intervals(count: int, told: Measured) -> None:
    """Pairs: intervals of 80 sets."""
    draw = np.random.default_rng(0)
    effects = draw.standard_normal((SETS, count)) + 0.2
    with told:
        mean_intervals(effects, Units.made(count))


def redraws(count: int, told: Measured) -> None:
    """Pairs in two groups: the interval of a gap between them, of one set."""
    draw = torch.Generator().manual_seed(0)
    groups = ("a", "b")
    made = [
        PromptPair(id=str(i), base="p", answers=("a", "b"), favourable=0, group=groups[i % 2]) for i in range(count)
    ]
    answers, gap = Answers.of(made, torch.float32), GROUPS["demographic_parity_gap"]
    base, scores = (torch.randn(count, 2, generator=draw) for _ in range(2))
    units = Units.made(count, strata=answers.group.tolist())
    with told:
        found = [gap.value(scores, base, answers.drawn(counts)).numpy() for counts in counts_of(units)]
        interval_of(np.concatenate(found), units)


def tokens(length: int, told: Measured) -> None:
    """Tokens of 200 prompts on a Llama of two layers, 200 MB for donor values: set-up, an evaluation and a gradient."""
    model, task = small_llama(layers=2), prompts_of(200, length)
    with told:
        problem = LanguageProblem(model, task, holdout=0, memory="200MB", direction="maximise")
        z = torch.full((len(problem.space),), 0.5)
        problem.effects(torch.ones_like(z))
        problem.gradient(z)
    told.more |= {"stored": problem.stored, "passes": problem.plan.batches}


def means(count: int, told: Measured) -> None:
    """Pairs of 60 tokens: the mean of every MLP neuron, 20 MB for donor values."""
    model, task = small_llama(), prompts_of(count, 60)
    with told:
        LanguageProblem(
            model, task, sites=["mlp_neuron"], donors="mean=task", holdout=0, memory="20MB", direction="maximise"
        )


def logits(count: int, told: Measured) -> None:
    """Pairs: ``kl`` over a vocabulary of 32,000, 200 MB for what is kept."""
    model, task = small_llama(vocabulary=32_000), prompts_of(count, 12)
    with told:
        problem = LanguageProblem(model, task, metric="kl", holdout=0, memory="200MB", direction="maximise")
        problem.effects(torch.ones(2, len(problem.space)))
    told.more["stored"] = problem.stored


class Additive(Problem):
    """A closed form: every component adds a weight, times a factor of each example."""

    metric, task, summary = "log_odds", "closed form", "a closed form"
    mode, direction = "swap", "maximise"

    def __init__(self, space: ComponentSpace, size: int = 60, heldout: Any = None) -> None:
        draw = torch.Generator().manual_seed(0)
        self.space, self.size, self.heldout, self.cost = space, size, heldout, Cost()
        self.weight = torch.randn(len(space), generator=draw) + 0.1
        self.factor = 1 + 0.3 * torch.randn(size, generator=draw)

    def effects(self, masks: Tensor, examples: Examples = None) -> Tensor:
        """[*mask, example]."""
        self.cost.charge(masks.numel() / len(self.space))
        found = (masks @ self.weight)[..., None] * self.factor
        return found if examples is None else found[..., list(examples)]

    def value(self, masks: Tensor) -> Tensor:
        """Their mean."""
        return self.effects(masks).mean(-1)

    def gradient(self, z: Tensor, objective: Loss | None = None, examples: Examples = None) -> Tensor:
        """The weights."""
        self.cost.charge(2)
        return self.weight * self.factor.mean()


def components(count: int, told: Measured) -> None:
    """Components: ``standard`` of a frontier of 60 sizes, on a closed form."""
    layers = 32
    space = ComponentSpace(
        tuple(Component(Site.MLP_NEURON, layer, unit) for layer in range(layers) for unit in range(count // layers))
    )
    problem = Additive(space, heldout=Additive(space))
    frontier = Attribution(at="none")(problem)
    with told:
        evaluate(problem, frontier, level="standard")
    told.more["bytes_per_component_and_size"] = told.peak_bytes / count / len(frontier)


def order(count: int, told: Measured) -> None:
    """Neurons (in five layers): an evaluation and a gradient, the space shuffled against ordered; the ratio."""
    model = random_model(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=count // 5,
            num_hidden_layers=5,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=2000,
        )
    )
    space = model.space((Site.MLP_NEURON,))
    shuffled = ComponentSpace(tuple(random.Random(0).sample(space.components, len(space))))
    made = [
        LanguageProblem(model, prompts_of(32, 20), sites=some, holdout=0, direction="maximise")
        for some in (space, shuffled)
    ]
    z = torch.full((len(space),), 0.5)
    seconds: list[list[float]] = [[], []]
    with told:
        for _ in range(5):
            for times, problem in zip(seconds, made, strict=True):
                began = time.process_time()
                problem.effects(z)
                problem.gradient(z)
                times.append(time.process_time() - began)
    told.more["shuffled_to_ordered"] = min(seconds[1]) / min(seconds[0])


CURVES: Mapping[str, tuple[Callable[[int, Measured], None], Sequence[int]]] = {
    "planning": (planning, (1_000, 3_000, 10_000)),
    "pairs": (pairs, (1_000, 3_000, 10_000)),
    "judged": (judged, (2_500, 10_000)),
    "intervals": (intervals, (1_000, 3_000, 10_000)),
    "redraws": (redraws, (500, 2_000, 10_000)),
    "tokens": (tokens, (500, 1_000, 2_000)),
    "means": (means, (300, 1_000, 3_000)),
    "logits": (logits, (500, 1_500)),
    "components": (components, (5_760, 46_080, 352_000)),
    "order": (order, (860, 5_000)),
}
"""Name -> what is measured at one value, and the values."""


def point(curve: str, value: int) -> dict[str, Any]:
    """One point, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", curve, str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def curve_points(curve: str, most: int) -> Iterator[dict[str, Any]]:
    """The points of one curve up to a value, each with its exponent."""
    before: dict[str, Any] | None = None
    for value in (value for value in CURVES[curve][1] if value <= most):
        row = point(curve, value)
        for name in ("seconds", "peak_bytes"):
            row[f"{name}_exponent"] = None if before is None else exponent(before, row, name)
        yield row
        before = row


def exponent(before: Mapping[str, Any], row: Mapping[str, Any], name: str) -> float:
    """Of a figure's growth between two points."""
    return math.log(max(row[name], 1e-6) / max(before[name], 1e-6)) / math.log(row["value"] / before["value"])


def print_curves(names: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Print every point when it is known."""
    rows = []
    print(f"{'curve':11} {'value':>8} {'seconds':>9} {'exponent':>8} {'peak MB':>9} {'exponent':>8}  more")
    for name in names:
        for row in curve_points(name, most):
            rows.append(row)
            slopes = ["" if (e := row[f"{n}_exponent"]) is None else f"{e:.2f}" for n in ("seconds", "peak_bytes")]
            more = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row["more"].items())
            print(
                f"{name:11} {row['value']:8,} {row['seconds']:9.2f} {slopes[0]:>8} {row['peak_bytes'] / 1e6:9.1f} "
                f"{slopes[1]:>8}  {more}",
                flush=True,
            )
    return rows


def main() -> None:
    """Measure one point and print it as JSON."""
    curve, value = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    told = Measured()
    CURVES[curve][0](value, told)
    row = {"name": curve, "value": value, "seconds": told.seconds, "peak_bytes": told.peak_bytes, "more": told.more}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
