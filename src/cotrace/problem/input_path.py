"""Gradients along donor minus base activations while the inputs stand between base and donor prompt (EAP-IG).

Source: Hanna, Pezzelle, Belinkov, Have faith in faithfulness, 2024 (arXiv 2403.17806), on nodes as in MIB (Mueller et
al. 2025, arXiv 2504.13151): the token embeddings are interpolated, and no activation is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cotrace.batches import EncodedPair, Layout, Packing, donor_layouts, donor_tokens
from cotrace.components import Site
from cotrace.donors.recorded import DelayedDonors, RecordedDonors, Spot, perturbed, record
from cotrace.errors import InputError
from cotrace.interventions import Patch, ShiftPatch, ValuePatch
from cotrace.problem.losses import BatchLoss
from cotrace.problem.scorer import Scorer


@dataclass(frozen=True, eq=False)
class InputPath:
    """Both ends of the path, for the pairs of one scorer."""

    scorer: Scorer
    base: RecordedDonors
    """The base run's values at the places of the space, counted as donor tokens are."""
    donors: RecordedDonors
    embeddings: Float[Tensor, "token d_model"]
    """Embeddings of the donor prompts' tokens, flat."""

    @classmethod
    def of(cls, scorer: Scorer) -> InputPath:
        """Record the base run. Raises InputError where donors are not the aligned prompts' own runs."""
        donors = check(scorer)
        places = tuple(dict.fromkeys(place for place, _ in scorer.spots))
        own = [replace(pair, donor=pair.prompt) for pair in scorer.pairs]
        with torch.no_grad():
            table = scorer.model.module.get_input_embeddings()(_tokens(scorer.pairs, scorer.packing))
        return cls(scorer, record(scorer.model, own, places, scorer.packing), donors, table)

    def slope(self, share: float, loss: BatchLoss, examples: Sequence[int] | None = None) -> Float[Tensor, "n"]:
        """Gradient of the sum of the batches' losses, at inputs that are so much the donor's."""
        n = len(self.scorer.space)
        total = torch.zeros(n, dtype=self.scorer.model.compute_dtype)
        for layout in self.scorer.layouts(examples):
            z = torch.zeros_like(total).requires_grad_()
            scores = torch.stack([self._scores(z, one, share) for one in layout.passes]).sum(0)
            total += torch.autograd.grad(loss(scores, layout.examples), z)[0]
        return total

    def _scores(self, z: Float[Tensor, "n"], layout: Layout, share: float) -> Float[Tensor, "example answer"]:
        alone = replace(layout, beside=())
        ends = [donors.patches(alone, self.scorer.spots) for donors in (self.base, self.donors)]
        patches: dict[Spot, Patch] = {spot: _shift(*(end[spot] for end in ends)) for spot in self.scorer.spots}

        def between(layout: Layout, own: Float[Tensor, "row pos d"]) -> Float[Tensor, "row pos d"]:
            where = (layout.source >= 0)[..., None].to(own.device)
            other = self.embeddings[layout.source.clamp(min=0).to(self.embeddings.device)].to(own)
            return torch.where(where, torch.lerp(own, other, share), own)

        with perturbed(self.scorer.model, alone, between):
            return self.scorer.run(z[None], alone, patches)[0]


def check(scorer: Scorer) -> RecordedDonors:
    """The donor values. Raises InputError where inputs cannot be interpolated between a base prompt and its donor."""
    what = "interpolated inputs (attribution at='inputs')"
    donors = scorer.donors.made if isinstance(scorer.donors, DelayedDonors) else scorer.donors
    if not isinstance(donors, RecordedDonors) or any(pair.donor is None for pair in scorer.pairs):
        raise InputError(f"{what} need a donor prompt of each pair in memory: use donors='counterfactual'")
    if any(len(pair.donor or ()) != len(pair.prompt) for pair in scorer.pairs):
        raise InputError(f"{what} need prompts of equal length: use align='exact'")
    if Site.ATTENTION_PATTERN in scorer.space.sites:
        raise InputError(f"{what} are of values, not of attention_pattern: use the site head_output")
    return donors


def _shift(base: Patch, donor: Patch) -> ShiftPatch:
    assert isinstance(base, ValuePatch), "check() lets only recorded values through"
    assert isinstance(donor, ValuePatch), "check() lets only recorded values through"
    return ShiftPatch(donor.place, donor.tokens, donor.donor - base.donor)


def _tokens(pairs: Sequence[EncodedPair], packing: Packing) -> Tensor:
    """Flat token ids of the donor runs."""
    ids = torch.zeros(sum(donor_tokens(pair, packing.patch_answers) for pair in pairs), dtype=torch.long)
    for layout in (one for whole in donor_layouts(pairs, packing) for one in whole.passes):
        real = layout.source >= 0
        ids[layout.source[real]] = layout.input_ids[real]
    return ids
