"""Running features: what the features, and the error, of a dictionary are while a model runs.

A feature's value is its activation [1], in units of its decoder row; the error's is what the features leave of the
place [d]. Both are of the place before features or error are swapped there: a swap changes what is added, and the sum
cannot be taken apart again.
"""

from __future__ import annotations

from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from cotrace.components import ERROR_SITES, Component
from cotrace.dictionaries.dictionary import Entries
from cotrace.models.hooks import TapList
from cotrace.models.places import PlacedDictionary


class RunningFeatures:
    """The values of one dictionary's features and error in one forward pass; ``taps`` come before edits there."""

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
    def taps(self) -> TapList:
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
