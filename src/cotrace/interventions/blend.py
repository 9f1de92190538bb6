"""The soft intervention, of values and of features, the edits that carry it out, and features while a model runs.

A place's value is decoded features plus an error, own: ``sum_i f_i W_i + e``, donor: ``sum_i g_i W_i + d``. Blended,
that is ``own + sum_i z_i (g_i - f_i) W_i + z_e (d - e)``, and with the error written out
``lerp(own, donor, z_e) + sum_i (z_i - z_e) (g_i - f_i) W_i``: exactly the own value where all masks are 0, exactly the
donor's where all are 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cotrace.components import ERROR_SITES, Component, Site
from cotrace.dictionaries.dictionary import Entries
from cotrace.models.hooks import Edit, Edits, PatternChange
from cotrace.models.places import Place, PlacedDictionary


def blend(
    own: Float[Tensor, "*shape"], donor: Float[Tensor, "*#shape"], z: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Soft intervention: (1 - z) own + z donor; exactly own at z = 0 and donor at z = 1. (Yan et al. 2026.)

    Half-precision values are blended in the precision of the mask.
    """
    if own.dtype == z.dtype:
        return torch.lerp(own, donor.to(own.dtype), z)
    return torch.lerp(own.to(z.dtype), donor.to(z.dtype), z).to(own.dtype)


@dataclass(frozen=True, eq=False)
class ValuePatch:
    """Donor values for the tokens of a layout at one place."""

    place: Place
    tokens: Int[Tensor, "token"]
    """Flat positions (row * T + pos) that have a donor."""
    donor: Float[Tensor, "#token feature"]
    """One row for each token, or one for all."""

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Blend the donor in, each copy of the rows with its own mask."""
        shape = (1, -1, z.shape[1], self.place.width)
        return _blending(self, z, lambda mine: self.donor.to(mine.device).reshape(shape))


@dataclass(frozen=True, eq=False)
class ScalePatch:
    """The own value times a factor, in place of donor values."""

    place: Place
    tokens: Int[Tensor, "token"]
    factor: float

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Blend the scaled value in: own (1 - z + z factor)."""
        return _blending(self, z, lambda mine: self.factor * mine)


def _blending(patch: ValuePatch | ScalePatch, z: Float[Tensor, "copy unit"], donor: Callable[[Tensor], Tensor]) -> Edit:
    """The edit that blends, at a patch's tokens, own values [copy, token, unit, width] with what ``donor`` makes."""
    copies, units = z.shape

    def apply(own: Tensor) -> Tensor:
        flat = own.reshape(copies, -1, units, patch.place.width)
        tokens, share = patch.tokens.to(own.device), z.to(own.device)[:, None, :, None]
        if len(tokens) == flat.shape[1]:  # all, in order
            return blend(flat, donor(flat), share).reshape(own.shape)
        mine = flat.index_select(1, tokens)
        return flat.index_copy(1, tokens, blend(mine, donor(mine), share)).reshape(own.shape)

    return apply


@dataclass(frozen=True, eq=False)
class ShiftPatch:
    """A fixed difference that is added to the own value."""

    place: Place
    tokens: Int[Tensor, "token"]
    """Flat positions (row * T + pos) that are shifted."""
    shift: Float[Tensor, "token feature"]

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Add the share z of the difference: own + z shift."""
        copies, units = z.shape

        def apply(own: Tensor) -> Tensor:
            flat = own.reshape(copies, -1, units, self.place.width)
            tokens, share = self.tokens.to(own.device), z.to(own)[:, None, :, None]
            shift = self.shift.to(own).reshape(1, -1, units, self.place.width)
            return flat.index_add(1, tokens, share * shift).reshape(own.shape)

        return apply


@dataclass(frozen=True, eq=False)
class PatternPatch:
    """Donor attention weights for the prompts of a layout at one place."""

    place: Place
    donor: Float[Tensor, "row unit query key"]
    """Zero outside the prompts."""
    patched: Float[Tensor, "row 1 query key"]
    """1 where query and key stand in the prompt of one example, else 0."""
    queries: Int[Tensor, "row query"] | None = None
    """Which queries of a row these are; the rest of a row is not touched. None where they are all, in order."""

    def edit(self, z: Float[Tensor, "copy unit"]) -> Edit:
        """Blend the donor's weights in; values stay the running ones."""
        return self._whole(z) if self.queries is None else self._some(z, self.queries)

    def _whole(self, z: Float[Tensor, "copy unit"]) -> Edit:
        def apply(own: Tensor) -> Tensor:
            weights = own.reshape(len(z), -1, *own.shape[1:])
            share = z.to(own.device)[:, None, :, None, None] * self.patched.to(own.device)
            return blend(weights, self.donor.to(own.device), share).reshape(own.shape)

        return apply

    def _some(self, z: Float[Tensor, "copy unit"], queries: Int[Tensor, "row query"]) -> Edit:
        """Only the change of the queries that change: little is computed, and little kept for the backward pass."""

        def apply(own: Tensor) -> PatternChange:
            share = z.to(own.device)[:, None, :, None, None]
            where = queries.to(own.device).repeat(len(z), 1)
            mine = own.gather(2, where[:, None, :, None].expand(-1, own.shape[1], -1, own.shape[3]))
            donor, patched = (t.to(own.device, z.dtype) for t in (self.donor, self.patched))
            gap = (donor - mine.to(z.dtype).reshape(len(z), *donor.shape)) * patched
            return PatternChange(where, (share * gap).to(own.dtype).reshape(mine.shape))

        return apply


PlainPatch = ValuePatch | ScalePatch | ShiftPatch | PatternPatch


@dataclass(frozen=True, eq=False)
class DonorFeatures:
    """Donor features of one dictionary: for each of the tokens, for all alike (one row), or a factor of the own."""

    tokens: Int[Tensor, "token"] | None
    """Flat positions (row * T + pos) that have a donor; None for every position."""
    entries: Entries | None = None
    """Its features; None with a factor."""
    whole: Float[Tensor, "#token d_out"] | None = None
    """Its value of the place; None where no error takes it."""
    factor: float | None = None
    """Factor of the own value, in place of donor values."""


@dataclass(frozen=True, eq=False)
class FeaturePatch:
    """The donor's part in the features, or in the error, of one dictionary at one position role."""

    place: Place
    donor: DonorFeatures
    share: Bool[Tensor, "token"] | None = None
    """Which of the donor's tokens have the role; None for all of them."""


Part = tuple[FeaturePatch, Tensor]
"""A patch and the mask [copy, unit] of its units, one row for each copy of the rows side by side."""


def feature_edits(parts: Sequence[Part]) -> Edits:
    """The edits that carry out all patches of one dictionary; roles that share a token are blended one by one."""
    joint = _Joint(parts)
    placed = joint.placed
    if not placed.is_transcoder:
        return [(placed.write, joint.change)]
    return [(placed.read, joint.note), (placed.write, joint.change)]


class _Joint:
    """All that is chosen at one dictionary, in one forward pass."""

    def __init__(self, parts: Sequence[Part]) -> None:
        first = parts[0][0]
        self.placed: PlacedDictionary = first.place.dictionary
        self.donor = first.donor
        self.parts = parts
        self.copies = len(parts[0][1])
        self.noted: Tensor | None = None

    def of(self, site: Site) -> list[Part]:
        """The parts that are features, or the error."""
        return [part for part in self.parts if part[0].place.site is site]

    def note(self, own: Tensor) -> Tensor:
        """Keep what a transcoder reads, as it is."""
        self.noted = own
        return own

    def change(self, own: Tensor) -> Tensor:
        """The value of the place with the donor blended in."""
        flat = own.reshape(self.copies, -1, self.placed.dictionary.d_out)
        tokens = self.donor.tokens
        tokens = torch.arange(flat.shape[1], device=own.device) if tokens is None else tokens.to(own.device)
        mine = flat.index_select(1, tokens)
        read = mine
        if self.noted is not None:
            read = self.noted.reshape(self.copies, -1, self.placed.dictionary.d_in).index_select(1, tokens)
        value = self._blended(mine.flatten(0, 1), read.flatten(0, 1), len(tokens))
        return flat.index_copy(1, tokens, value.reshape(mine.shape).to(own)).reshape(own.shape)

    def _blended(self, mine: Tensor, read: Tensor, count: int) -> Float[Tensor, "token d_out"]:
        decoder = self.placed.dictionary.decoder
        value, wanted = mine.to(decoder), self._wanted()
        own = self.placed.entries(read, wanted)
        factor = self.donor.factor
        if factor is None:
            given = self._given(wanted, count)
            moved = given.weighted(self._weights(given, count)).decoded(decoder)
            moved = moved - own.weighted(self._weights(own, count)).decoded(decoder)
        else:
            moved = own.weighted((factor - 1) * self._weights(own, count)).decoded(decoder)
        if errors := self.of(self.placed.error_site):
            every = torch.arange(len(value), device=value.device)
            share = _shares(errors, every, torch.zeros_like(every), count)[:, None]
            value = torch.lerp(value, self._whole(value), share)
        return value + moved

    def _wanted(self) -> Int[Tensor, "some"] | None:
        """Return the features that some mask touches; None for all, as a gradient or an error needs."""
        if any(z.requires_grad for _, z in self.parts) or self.of(self.placed.error_site):
            return None
        touched = torch.stack([z.any(0) for _, z in self.parts]).any(0)
        return torch.nonzero(touched).flatten()

    def _given(self, wanted: Int[Tensor, "some"] | None, count: int) -> Entries:
        """The donor's features of every token and copy."""
        entries = self.donor.entries
        assert entries is not None, "a donor without a factor has features"
        entries = entries.to(self.placed.dictionary.decoder.device)
        told = self.placed.active if wanted is None else wanted
        if told is not None:
            flags = torch.zeros(self.placed.dictionary.size, dtype=torch.bool, device=told.device)
            flags[told] = True
            entries = entries.where(flags)
        if entries.tokens != count:  # one row for all
            entries = entries.rows(torch.zeros(count, dtype=torch.long))
        return entries.repeated(self.copies)

    def _weights(self, entries: Entries, count: int) -> Float[Tensor, "entry"]:
        """z_i - z_e of each entry."""
        weight = _shares(self.of(self.placed.feature_site), entries.token, entries.feature, count)
        errors = self.of(self.placed.error_site)
        return weight - _shares(errors, entries.token, torch.zeros_like(entries.feature), count) if errors else weight

    def _whole(self, own: Float[Tensor, "token d_out"]) -> Float[Tensor, "token d_out"]:
        """The donor's value of the place, for every token and copy."""
        if self.donor.factor is not None:
            return self.donor.factor * own
        whole = self.donor.whole
        assert whole is not None, "the value is kept where an error is in the space"
        whole = whole.to(own)
        return whole.expand_as(own) if len(whole) == 1 else whole.repeat(self.copies, 1)


def _shares(
    parts: Sequence[Part], token: Int[Tensor, "entry"], unit: Int[Tensor, "entry"], count: int
) -> Float[Tensor, "entry"]:
    """How much of each entry is the donor's, over all roles: 1 - (1 - z) (1 - z') where two roles share a token."""
    total = torch.zeros((), device=token.device)
    for number, (patch, z) in enumerate(parts):
        share = z.to(token.device)[token // count, unit]
        if patch.share is not None:
            share = share * patch.share.to(token.device)[token % count]
        total = share if number == 0 else total + (1 - total) * share
    return total.expand(token.shape)


def edits_of(patches: Sequence[tuple[Place, Edit] | Part]) -> Edits:
    """Edits as they are, and the patches of each dictionary as one edit, where its first one stands."""
    edits: list[tuple[Place, Edit]] = []
    joint: dict[int, list[Part]] = {}
    for first, second in patches:
        if isinstance(first, FeaturePatch):
            joint.setdefault(id(first.place.dictionary), []).append((first, second))  # type: ignore[arg-type]
    for first, second in patches:
        if isinstance(first, FeaturePatch):
            edits += (
                feature_edits(joint.pop(id(first.place.dictionary), ())) if id(first.place.dictionary) in joint else []
            )
        else:
            edits.append((first, second))  # type: ignore[arg-type]
    return edits


class RunningFeatures:
    """The values of one dictionary's features and error in one forward pass; ``edits`` come before edits there.

    A feature's value is its activation [1], in units of its decoder row; the error's is what the features leave of the
    place [d]. Both are of the place before features or error are swapped there: a swap changes what is added, and the
    sum cannot be taken apart again.
    """

    def __init__(self, placed: PlacedDictionary, copies: int) -> None:
        self.placed, self.copies = placed, copies
        self._read: Tensor | None = None
        self._written: Tensor | None = None

    @classmethod
    def seen(cls, placed: PlacedDictionary, read: Tensor, written: Tensor) -> RunningFeatures:
        """Return the features of values [token, d] that a run left at the places of the dictionary, in one copy."""
        found = cls(placed, 1)
        found._note_read(read)
        found._note_written(written)
        return found

    @property
    def edits(self) -> Edits:
        """Edits that change nothing."""
        return [(self.placed.read, self._note_read), (self.placed.write, self._note_written)]

    def _note_read(self, own: Tensor) -> Tensor:
        self._read = own.detach()
        return own

    def _note_written(self, own: Tensor) -> Tensor:
        self._written = own.detach()
        return own

    @cached_property
    def _entries(self) -> Entries:
        assert self._read is not None, "the pass has reached what the dictionary reads"
        return self.placed.entries(self._read.reshape(-1, self.placed.dictionary.d_in))

    @cached_property
    def _error(self) -> Float[Tensor, "token d_out"]:
        assert self._written is not None, "the pass has reached what the dictionary writes"
        decoder = self.placed.dictionary.decoder
        return self._written.reshape(-1, decoder.shape[1]).to(decoder) - self._entries.decoded(decoder)

    def value(self, member: Component) -> Float[Tensor, "copy token width"]:
        """A member's value: an activation, or the error."""
        if member.site in ERROR_SITES:
            return self._error.reshape(self.copies, -1, self._error.shape[1])
        entries = self._entries
        mine = entries.feature == member.unit
        found = entries.value.new_zeros(entries.tokens).index_put((entries.token[mine],), entries.value[mine])
        return found.reshape(self.copies, -1, 1)

    def added(self, member: Component, value: Float[Tensor, "*token width"]) -> Float[Tensor, "*token d_out"]:
        """Return the addition of a member's value to the place."""
        return value if member.site in ERROR_SITES else value * self.placed.dictionary.decoder[member.unit or 0]
