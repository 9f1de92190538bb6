"""Ray is begun once for the whole session and ends with it; every test that needs workers shares them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from cotrace.workers import Workers
from cotrace.workers.cluster import ray_module


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray on this machine, with room for a few workers whatever it has."""
    ray = ray_module()
    quiet = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    ray.init("local", num_cpus=8, object_store_memory=200_000_000, **quiet)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def workers(ray_here: None) -> Iterator[Workers]:
    """Two workers."""
    with Workers(2, max_restarts=50) as found:
        yield found
