"""Every part of a chart is held against Vega-Lite's schema as it is made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from altair.utils.schemapi import debug_mode


@pytest.fixture(autouse=True)
def _checked_charts() -> Iterator[None]:
    with debug_mode(True):
        yield
