"""Forecast of a run's work and cost: from the model's configuration before it is loaded, and from its problem after."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from cotrace.components import Site
from cotrace.evaluation.setup import LEVELS, plan
from cotrace.problem.language import LanguageProblem
from cotrace.problem.losses import SumLoss
from cotrace.problem.scorer import Scorer
from cotrace.prompts import PromptPair, Task
from cotrace.prompts.pair import chat_words
from cotrace.runs.config import RunConfig
from cotrace.search import Search

TOKENS_PER_WORD = 1.4
WITHIN = 3
"""The time may be this many times longer or shorter: passes are not measured yet."""
OVER_PRODUCTS = 1.6
"""Time of a pass, in units of its matrix products alone."""
PROBE_ROWS, PROBE_S = 256, 0.2
PER_LAYER = {Site.ATTENTION_OUTPUT, Site.MLP_OUTPUT, Site.RESIDUAL}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, by its configuration."""

    layers: int
    heads: int
    width: int
    hidden: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Shape | None:
        """None where the configuration does not name them as most do."""
        text = config.get_text_config()
        names = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
        sizes: list[Any] = [getattr(text, name, None) for name in names]
        if not all(isinstance(size, int) for size in sizes):
            return None
        layers, heads, width, vocabulary = sizes
        hidden = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * width
        return cls(layers, heads, width, hidden, vocabulary)

    def components(self, sites: Sequence[str]) -> int | None:
        """N, for one role; None for sites that the configuration alone does not count."""
        units = {Site.HEAD_OUTPUT: self.heads, Site.ATTENTION_PATTERN: self.heads, Site.MLP_NEURON: self.hidden}
        units |= {Site.MLP_COORDINATE: self.width} | dict.fromkeys(PER_LAYER, 1)
        if any(site not in units for site in sites):  # or single components, or a run as shortlist
            return None
        return self.layers * sum(units[Site(site)] for site in sites)

    @property
    def products_per_token(self) -> float:
        """Multiplications of one token through the layers: attention's four maps and a gated MLP's three."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.hidden)


@dataclass(frozen=True)
class Outlook:
    """The work of a run as far as its configuration shows."""

    pairs: int
    components: int
    tokens: int
    forward_equivalents: float
    seconds: float | None
    """Predicted seconds; None on a device that is not timed."""

    @property
    def words(self) -> str:
        """Return the forecast in one line."""
        from cotrace.text.progress_bar import duration

        long = "" if self.seconds is None else f", very roughly {duration(self.seconds)} once the model is loaded"
        return (
            f"to do: {self.pairs:,} pairs of about {self.tokens:,} tokens to search, N = {self.components:,} "
            f"components, about {self.forward_equivalents:,.0f} forward-equivalents{long} (measured before it begins)"
        )


def outlook(config: RunConfig, task: Task, searches: Sequence[Search]) -> Outlook | None:
    """Return the work of a run; None where the model's configuration does not show it. Raises ModelError."""
    if config.dictionaries:  # how many features are active only the model shows
        return None
    shape = Shape.of(config.model_config())
    n = None if shape is None else shape.components(config.sites or task.sites)
    if shape is None or n is None:
        return None
    n *= len(config.roles or ("all",))
    pairs = max(1, round(len(task) * (1 - config.holdout - config.audit)))
    seen = min(pairs, config.search_pairs or pairs)
    shared = (config.donors or task.donors) == "counterfactual"
    tokens = round(sum(_words(pair, shared) for pair in task.pairs) / len(task) * pairs * TOKENS_PER_WORD)
    cost = sum(search.predicted_cost(n) for search in searches) * (1 + len(config.plus) + len(config.constraints))
    cost = cost * seen / pairs + _judging(config, searches[0], n)
    seconds = None
    if config.device == "cpu" and config.device_map is None:
        logits = shape.width * shape.vocabulary * len(task.pairs[0].answers) * pairs
        seconds = cost * OVER_PRODUCTS * (shape.products_per_token * tokens + logits) / products_per_second(shape)
    return Outlook(pairs, n, tokens, cost, seconds)


def _words(pair: PromptPair, shared: bool) -> int:
    """Words of a prompt and of all its answers; those that it shares with the donor's prompt are run only once."""
    base = (pair.base or chat_words(pair.messages)).split()
    other = (pair.counterfactual or "").split() if shared else []
    same = next((i for i, words in enumerate(zip(base, other, strict=False)) if words[0] != words[1]), 0)
    return len(base) - same + sum(max(1, len(answer.split())) for answer in pair.answers)


def _judging(config: RunConfig, search: Search, n: int) -> float:
    if config.evaluation not in LEVELS:
        return 0.0
    sizes = range(1, min(search.max_size or n, n) + 1)
    level = LEVELS[config.evaluation]
    found = plan(config.evaluation, level, n=n, k=max(1, len(sizes) // 4), sizes=sizes, stored=True, singles=False)
    return found.forward_equivalents


def products_per_second(shape: Shape) -> float:
    """Multiplications and additions a second of a matrix product of the model's width, on this machine now."""
    rows, matrix = torch.ones(PROBE_ROWS, shape.width), torch.ones(shape.width, shape.hidden)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < PROBE_S:
        torch.mm(rows, matrix)
        done += 1
    return done * PROBE_ROWS * shape.width * shape.hidden / (time.perf_counter() - began)


FORECAST_WITHIN = 0.5
"""How far a predicted time may be off, as a share of what a run then takes."""
GRADIENT_SHARE: Mapping[str, float] = {
    "pgbct": 1.0,
    "hardconcrete": 1.0,
    "matryoshka": 1.0,
    "pursuit": 0.6,
}
"""Share of a search's forward-equivalents that gradients take; all others only evaluate."""
FEWEST_MASKS = 4
QUICK_S, REPEATS = 0.3, 3
"""Seconds below which a pass is timed several times."""


@dataclass(frozen=True)
class SearchForecast:
    """Predicted cost and time of one search."""

    forward_equivalents: float
    at_most: float
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """Predicted cost, time and memory of a run."""

    searches: Mapping[str, SearchForecast]
    evaluation: float
    """Forward-equivalents of judging the result, at most."""
    evaluation_s: float

    @property
    def seconds(self) -> float:
        """All searches, and judging the result."""
        return sum(search.seconds for search in self.searches.values()) + self.evaluation_s


def forecast(
    problem: LanguageProblem,
    searches: Sequence[Search],
    level: str = "none",
    *,
    others: Sequence[LanguageProblem] = (),
) -> Forecast:
    """Predict the costs, and time one gradient and one evaluation for them. Nothing is counted as cost.

    ``others`` are problems that every mask is put to as well: parts of a sum, and constraints.

    Raises InputError where a pass of one pair does not fit in memory.
    """
    scorer = problem.training.scorer
    judge = problem.counted_parts.get("heldout", problem.training).scorer
    shares = [GRADIENT_SHARE.get(search.name, 0.0) for search in searches]
    evaluation_s = _evaluation_s(scorer)
    gradient_s = _gradient_s(scorer) if any(shares) else 0.0
    for other in others:
        evaluation_s += _evaluation_s(other.training.scorer)
        gradient_s += _gradient_s(other.training.scorer) if any(shares) else 0.0
    evaluation_s, gradient_s = (seconds / (1 + len(others)) for seconds in (evaluation_s, gradient_s))
    found = {}
    for search, share in zip(searches, shares, strict=True):
        cost, most = ((1 + len(others)) * one for one in _costs(problem, search))
        found[search.name] = SearchForecast(cost, most, cost * (share * gradient_s + (1 - share) * evaluation_s))
    judging = (1 + len(others)) * _judging_cost(problem, level, searches[0])
    return Forecast(found, judging, judging * evaluation_s * _cells(judge) / _cells(scorer))


def _costs(problem: LanguageProblem, search: Search) -> tuple[float, float]:
    """Predicted and largest cost; a search on some of the pairs costs its share, and its sets are evaluated on all."""
    n, share = len(problem.space), problem.searched.size / problem.size
    last = min(search.max_size or n, n) if share < 1 else 0
    most = search.most_cost(n)
    return share * search.predicted_cost(n) + last, share * most + last


def _judging_cost(problem: LanguageProblem, level: str, search: Search) -> float:
    """Forward-equivalents of an evaluation of this level, at most."""
    if level not in LEVELS:
        return 0.0
    n = len(problem.space)
    sizes = range(1, min(search.max_size or n, n) + 1)
    k = max(1, len(sizes) // 4)
    return plan(level, LEVELS[level], n=n, k=k, sizes=sizes, stored=True, singles=False).forward_equivalents


def _evaluation_s(scorer: Scorer) -> float:
    """Seconds per forward-equivalent of an evaluation of as many masks as a forward pass takes of the largest batch."""
    examples, share = _largest(scorer)
    n, cells = len(scorer.space), share * _cells(scorer)
    count = min(n, max(FEWEST_MASKS, int(scorer.batching.tokens // cells)))
    chosen = torch.linspace(0, n - 1, count).round().long()
    masks = torch.zeros(count, n, dtype=scorer.model.compute_dtype).scatter(1, chosen[:, None], 1)
    return _seconds(lambda: scorer.scores(masks, examples)) / (count * share)


def _gradient_s(scorer: Scorer) -> float:
    """Seconds per forward-equivalent of a gradient, which counts two."""
    examples, share = _largest(scorer)
    z = torch.full((len(scorer.space),), 0.5, dtype=scorer.model.compute_dtype)
    return _seconds(lambda: scorer.slope(z, SumLoss(), examples)) / (2 * share)


def _largest(scorer: Scorer) -> tuple[Sequence[int], float]:
    """The examples of the largest batch, and its share of all tokens."""
    largest = max(scorer.all_layouts, key=lambda layout: layout.cost)
    return largest.examples, largest.cost / _cells(scorer)


def _cells(scorer: Scorer) -> int:
    """Return the cost of one forward pass over all pairs, in tokens."""
    return sum(layout.cost for layout in scorer.all_layouts)


def _seconds(run: Callable[[], object]) -> float:
    """Seconds of a call; the median of several after the first, which finds everything cold, where it is quick."""
    first = _once(run)
    return first if first > QUICK_S else median(_once(run) for _ in range(REPEATS))


def _once(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
