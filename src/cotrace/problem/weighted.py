"""Weighted sums of problems over one component space.

Source: the desiderata of Davies et al. 2023, arXiv 2307.03637, as Yan et al. 2026 combine them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.components import ComponentSpace, sign_of
from cotrace.errors import InputError
from cotrace.problem.protocol import Cost, Direction, Examples, Loss, Mode, Problem, check_same
from cotrace.validation import checked, guarded


@guarded("ct.WeightedSum", fields=False)
class WeightedSum(Problem):
    """The sum of weight x value of each problem, each counted in its own direction; to be maximised.

    Its examples are those of the problems one after another; their effects are scaled (weight x all examples / the
    problem's own) so that their mean by ``weights``, those of the pairs, is the value. This leaves them as they are
    where sizes and weights are equal and weights add up to 1. ``shares`` are the problems' weights. Metrics of the
    whole set have no effects; then only value and gradient are given.

    Args:
        parts: (weight, problem) of each, at least two; weights are finite and above 0.
    """

    direction: Direction = "maximise"

    @checked("ct.WeightedSum")
    def __init__(self, parts: Sequence[tuple[float, Problem]]) -> None:
        if len(parts) < 2:
            raise InputError("a weighted sum needs at least two problems")
        self.shares = [float(weight) for weight, _ in parts]
        self.problems = [problem for _, problem in parts]
        if not all(0 < weight < float("inf") for weight in self.shares):
            raise InputError(
                f"weights are {self.shares}: give finite numbers above 0 (a direction is each problem's own)"
            )
        for problem in self.problems:
            check_same(self.problems[0], problem, mode=True)
        self._signs = [sign_of(problem.direction) for problem in self.problems]

    @property
    def space(self) -> ComponentSpace:
        return self.problems[0].space

    @property
    def mode(self) -> Mode:
        return self.problems[0].mode

    @property
    def metric(self) -> str:
        return self._joined([problem.metric for problem in self.problems])

    @property
    def task(self) -> str:
        return " + ".join(dict.fromkeys(problem.task for problem in self.problems))

    @property
    def summary(self) -> str:
        """The question in words."""
        parts = "; ".join(f"{problem.metric} on {problem.task}: {problem.summary}" for problem in self.problems)
        unclear = [f"{p.metric} on {p.task}" for p in self.problems if not p.full_is_clear]
        caution = f"No effect is shown of {' and '.join(unclear)}; " if unclear else ""
        return f"{caution}weighted sum {self.metric}. {parts}"

    @property
    def question(self) -> dict[str, str]:
        """Provenance that results carry: what all problems share, or theirs one after another."""
        each = [problem.question for problem in self.problems]
        return {name: " + ".join(dict.fromkeys(one.get(name, "") for one in each)) for name in each[0]}

    @property
    def made_of(self) -> list[Problem]:
        """The problems."""
        return self.problems

    @property
    def ids(self) -> list[str]:
        """The pairs of all problems, each behind the name of its task."""
        return [f"{problem.task}: {name}" for problem in self.problems for name in problem.ids]

    @property
    def size(self) -> int:
        return sum(problem.size for problem in self.problems)

    @property
    def weights(self) -> Float[Tensor, "example"]:
        """How much each example counts: its weight among the pairs of its problem, which count as many as they are."""
        found = []
        for problem in self.problems:
            own = torch.as_tensor(problem.weights).double().cpu()
            found.append(own * problem.size / own.sum())
        return torch.cat(found)

    @property
    def parts(self) -> list[int]:
        """The number of the problem of each example: intervals are of the sum of their means."""
        return [i for i, problem in enumerate(self.problems) for _ in range(problem.size)]

    @property
    def clusters(self) -> list[str]:
        """The group of each example: pairs of one task that two problems have are resampled together."""
        found: list[str] = []
        for i, problem in enumerate(self.problems):
            labels = problem.clusters
            own = range(problem.size) if labels is None else labels
            name = f"problem {i}" if labels is None else problem.task
            found += [f"{name}: {label}" for label in own]
        return found

    @property
    def full_is_clear(self) -> bool:
        """Whether every problem's pairs show that swapping everything moves its metric."""
        return all(problem.full_is_clear for problem in self.problems)

    @property
    def cost(self) -> Cost:
        """Cost of all problems together: a mask costs 1 for each."""
        return Cost(sum(problem.cost.forward_equivalents for problem in self.problems))

    @property
    def heldout(self) -> WeightedSum | None:
        """The same sum on unseen pairs; None where some problem holds nothing out."""
        return self._of([problem.heldout for problem in self.problems])

    @property
    def drawn(self) -> str:
        """The held-out pairs of each problem that judge, in words; empty where they all do."""
        return "; ".join(f"{p.task}: {said}" for p in self.problems if (said := p.drawn))

    @property
    def audit(self) -> WeightedSum | None:
        """The same sum on audit pairs; None where some problem has none."""
        return self._of([problem.audit for problem in self.problems])

    def _of(self, others: Sequence[Problem | None]) -> WeightedSum | None:
        kept = [problem for problem in others if problem is not None]
        return WeightedSum(list(zip(self.shares, kept, strict=True))) if len(kept) == len(others) else None

    @property
    def searched(self) -> WeightedSum:
        """The same sum on the pairs that searches see."""
        seen = [problem.searched for problem in self.problems]
        same = all(a is b for a, b in zip(seen, self.problems, strict=True))
        return self if same else WeightedSum(list(zip(self.shares, seen, strict=True)))

    def value(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The weighted sum of values."""
        return self._summed([problem.value(masks) for problem in self.problems])

    @property
    def surrogate(self) -> bool:
        """Whether some problem's searches see another quantity than people read, and all have one that they read."""
        if self.mode == "keep" or not any(problem.surrogate for problem in self.problems):
            return False
        return all(p.reported_base is not None and p.target is None for p in self.problems)

    @property
    def reported_base(self) -> float | None:
        """The weighted sum of the levels in the base run, as people read them, each in its own direction."""
        levels = [p.reported_base for p in self.problems]
        terms = zip(self.shares, self._signs, levels, strict=True)
        return None if None in levels else sum(w * s * level for w, s, level in terms if level is not None)

    def reported(self, masks: Float[Tensor, "*mask n"]) -> Float[Tensor, "*mask"]:
        """The same under one mask or several."""
        return self._summed([problem.reported(masks) for problem in self.problems])

    def _summed(self, terms: Sequence[Float[Tensor, "*mask"]]) -> Float[Tensor, "*mask"]:
        """The sum of weight x direction x term of each problem."""
        rows = zip(self.shares, self._signs, terms, strict=True)
        return torch.stack([w * s * term.double() for w, s, term in rows]).sum(0)

    def effects(self, masks: Float[Tensor, "*mask n"], examples: Examples = None) -> Float[Tensor, "*mask example"]:
        """Scaled effects of all problems' examples; their mean by ``weights`` is the value.

        Raises InputError where a metric has none.

        Args:
            masks: One mask [n] or several [mask, n].
            examples: Indices into the examples of all problems, one problem after another; None for all.
        """
        found = []
        for i, part in self._split(examples):
            effects = self.problems[i].effects(masks, part)
            found.append(self._scale(i) * effects.double())
        together = torch.cat(found, -1)
        return together if examples is None else together[..., self._order(examples)]

    def gradient(
        self, z: Float[Tensor, "n"], objective: Loss | None = None, examples: Examples = None
    ) -> Float[Tensor, "n"]:
        """Gradient of the mean of ``objective(effects)``, or of the value.

        Args:
            z: Soft mask [n], from 0 to 1.
            objective: Differentiable function of the effects; None for the value.
            examples: Indices into the examples of all problems; None for all.
        """
        parts = self._split(examples)
        count = self.size if examples is None else sum(len(part or ()) for _, part in parts)
        total = torch.zeros(len(self.space), dtype=torch.float64)
        for i, part in parts:
            share = (self.problems[i].size if part is None else len(part)) / count
            scale = self._scale(i)
            loss = _scaled(objective, scale) if objective is not None else None
            slope = self.problems[i].gradient(z, loss, part).double()
            total += share * (slope if objective is not None else scale * slope)
        return total

    def _scale(self, i: int) -> float:
        """Return the factor of an effect of problem i."""
        return self._signs[i] * self.shares[i] * self.size / self.problems[i].size

    def _split(self, examples: Examples) -> list[tuple[int, list[int] | None]]:
        """(problem, its own examples) for the problems that have some of them."""
        if examples is None:
            return [(i, None) for i in range(len(self.problems))]
        parts: dict[int, list[int]] = {}
        for example in map(int, examples):
            i, own = self._place(example)
            parts.setdefault(i, []).append(own)
        return [(i, parts[i]) for i in sorted(parts)]

    def _place(self, example: int) -> tuple[int, int]:
        start = 0
        for i, problem in enumerate(self.problems):
            if start <= example < start + problem.size:
                return i, example - start
            start += problem.size
        raise InputError(f"examples must be indices from 0 to {self.size - 1}")

    def _order(self, examples: Any) -> list[int]:
        """Return the place of each example asked for among those sorted by problem."""
        given = [self._place(int(example))[0] for example in examples]
        by_problem = sorted(range(len(given)), key=given.__getitem__)
        return sorted(range(len(given)), key=by_problem.__getitem__)

    def _joined(self, names: Sequence[str]) -> str:
        return " + ".join(f"{weight:g} {name}" for weight, name in zip(self.shares, names, strict=True))


def _scaled(objective: Loss, scale: float) -> Loss:
    return lambda effects: objective(scale * effects)
