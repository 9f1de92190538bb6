"""Other libraries while a run goes on: silent but for errors, and with their threads given back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_threads() -> Iterator[None]:
    """A run may set the number of threads; afterwards it is as before."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quiet_libraries() -> None:
    """No progress bars and no notes of theirs: the screen is ours, and one line an error."""
    import logging

    from transformers.utils import logging as own

    own.set_verbosity_error()
    own.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it notes every try
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it notes every cast of 8-bit weights' inputs
