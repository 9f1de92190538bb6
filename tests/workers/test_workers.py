"""Real workers on Ray: the same bytes whatever happens to them, and one line where they cannot be had."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import cotrace as ct
from cotrace.errors import InputError, ModelError, WorkersError
from cotrace.workers import Workers, cluster, distributed
from cotrace.workers.cluster import Needs, check_address, check_asked, check_resources
from cotrace.workers.worker import ModelSource, check_versions, versions
from tests import tiny
from tests.conftest import records, write_lines


@pytest.fixture(scope="module")
def alone() -> ct.LanguageProblem:
    """A problem of several batches."""
    return ct.LanguageProblem(
        tiny.model("gpt2", torch.float32), tiny.task(12), sites=["head_output"], batch_tokens=40, direction="maximise"
    )


def masks(n: int) -> torch.Tensor:
    return torch.rand(6, n, generator=torch.Generator().manual_seed(0))


def sliding(effects: torch.Tensor) -> torch.Tensor:
    return 1 / (2 + effects) ** 2


@pytest.mark.slow
def test_effects_and_gradients_come_back_the_same(alone: ct.LanguageProblem, workers: Workers) -> None:
    many, z = distributed(alone, workers), masks(len(alone.space))
    assert torch.equal(alone.effects(z), many.effects(z))
    assert torch.equal(alone.gradient(z[0]), many.gradient(z[0]))
    assert torch.equal(alone.gradient(z[0], lambda e: 1 / (2 + e) ** 2), many.gradient(z[0], sliding))
    assert torch.equal(alone.heldout.effects(z), many.heldout.effects(z))  # type: ignore[union-attr]
    assert workers.batches >= 3 * len(alone.training.scorer.all_layouts)
    assert "2 of 2 workers" in workers.words


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.3])
def test_a_worker_that_is_killed_changes_nothing(alone: ct.LanguageProblem, workers: Workers, moment: float) -> None:
    import ray

    many, z = distributed(alone, workers), masks(len(alone.space))
    many.effects(z)
    before = workers.restarts
    victim = next(iter(workers._workers.values()))
    pid = ray.get(victim.actor.begin.remote())["pid"]
    thread = threading.Thread(target=_kill, args=(pid, moment))
    thread.start()
    found: list[torch.Tensor] = []
    while not found or thread.is_alive() or workers.restarts == before:  # until it has been noticed
        found.append(many.effects(z))
    thread.join()
    assert workers.restarts == before + 1
    assert all(torch.equal(one, alone.effects(z)) for one in found)


def _kill(pid: int, moment: float) -> None:
    time.sleep(moment)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_restarts_that_are_used_up_end_in_one_line_that_names_resume(alone: ct.LanguageProblem, ray_here: None) -> None:
    import ray

    with Workers(1, max_restarts=0) as few:
        many, z = distributed(alone, few), masks(len(alone.space))
        many.effects(z)
        (worker,) = few._workers.values()
        os.kill(ray.get(worker.actor.begin.remote())["pid"], signal.SIGKILL)
        with pytest.raises(WorkersError, match=r"1 workers were lost .* max_restarts is 0: .* `cotrace resume`"):
            many.effects(z)
    with pytest.raises(WorkersError, match=r"these workers have ended"):
        many.effects(z)


@pytest.fixture
def silent() -> Iterator[int]:
    """A port at which somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
def test_an_address_that_nobody_answers_is_one_line_in_ten_seconds(silent: int) -> None:
    began = time.monotonic()
    with pytest.raises(WorkersError, match=rf"no Ray cluster answers at 127.0.0.1:{silent} within 8 s"):
        check_address(f"127.0.0.1:{silent}")
    assert time.monotonic() - began < 60, "and not after Ray's own minutes, on however busy a machine"


def test_an_address_of_another_kind_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"a client's connection carries no batches.*HOST:PORT"):
        check_address("ray://head:10001")


def test_ray_that_is_begun_here_is_no_other_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless told, Ray joins what RAY_ADDRESS names, or what somebody began on the machine: with processors of its own
    named that is an error, and without another's workers would compute."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")

    class Ray:
        @staticmethod
        def init(**options: Any) -> None:
            asked.append(options)

    cluster._begin(Ray, None, Needs(3, 2))
    assert asked[0]["address"] == "local"
    assert asked[0]["num_cpus"] >= 6


@pytest.mark.slow
def test_a_full_object_store_is_one_line(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses what finds no room in memory or on disk by either of these."""
    import ray

    full = r"object store is full \(.*: give it more .*go on with `cotrace resume`"
    with Workers(1) as workers:
        for kind in (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError):
            monkeypatch.setattr(ray, "put", Mock(side_effect=kind("no room")))
            with pytest.raises(WorkersError, match=full):
                workers._put(torch.zeros(3))


@pytest.mark.slow
def test_files_that_are_gone_on_a_real_worker_are_one_line(
    tiny_folder: Path, tmp_path: Path, workers: Workers, ray_here: None
) -> None:
    here = tmp_path / "here"
    shutil.copytree(tiny_folder, here)
    problem = ct.LanguageProblem(
        ct.load_model(here),
        ct.tasks.jsonl(write_lines(tmp_path / "pairs.jsonl", records())),
        holdout=0,
        direction="maximise",
    )
    shutil.rmtree(here)
    with pytest.raises(ModelError, match=r"^worker on .*there is no folder .*here.* where every worker can read them$"):
        distributed(problem, workers).effects(torch.ones(len(problem.space)))


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(4, 1, gpus=1), r"4 workers of 1 GPU need 4, and the cluster has 2: give at most 2 workers"),
        (Needs(1, 1, gpus=8), r"1 workers of 8 GPUs need 8, and the cluster has 2: give workers with fewer GPUs"),
        (Needs(3, 4), r"3 workers of 4 CPUs need 12, and the cluster has 8: give at most 2 workers"),
    ],
)
def test_a_cluster_without_what_is_needed_is_one_line(needs: Needs, words: str) -> None:
    with pytest.raises(WorkersError, match=words):
        check_resources({"CPU": 8.0, "GPU": 2.0}, needs)
    check_resources({"CPU": 8.0, "GPU": 2.0}, Needs(8, 1, gpus=0.25))


@pytest.mark.parametrize(("name"), ["cotrace", "torch", "transformers"])
def test_another_version_on_a_worker_is_one_line(name: str) -> None:
    check_versions({"versions": versions(), "node": "there"})
    with pytest.raises(WorkersError, match=rf"the worker on there has {name} 0.0.1 .*install {name}=="):
        check_versions({"versions": versions() | {name: "0.0.1"}, "node": "there"})


def test_numbers_that_cannot_be_are_refused() -> None:
    for wrong in ((0, 0, 1), (1, 1.5, 1), (1, -1, 1), (1, float("nan"), 1), (1, 0, -1)):
        with pytest.raises(InputError, match="give"):
            check_asked(*wrong)


def test_files_that_a_worker_cannot_read_and_other_weights_are_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    source = ModelSource.of(ct.load_model(tiny_folder))
    assert source.model is None, "its files are read, its weights are not sent"
    assert source.made(0).name == source.made(0).name
    gone = ModelSource(source.name, {**source.arguments, "name": str(tmp_path / "gone")}, None, source.fingerprints)  # type: ignore[dict-item]
    with pytest.raises(ModelError, match=r"worker on .*there is no folder .*gone.* where every worker can read them"):
        gone.made(0)
    other = dict.fromkeys(source.fingerprints, "another")
    with pytest.raises(ModelError, match=r"its .* has other weights transformer.wte.weight than the driver's"):
        ModelSource(source.name, source.arguments, None, other).made(0)


def test_a_model_in_memory_is_sent_and_several_gpus_get_a_device_map() -> None:
    held = ModelSource.of(tiny.model("gpt2", torch.float32))
    assert held.model is not None
    assert held.model.tokenizer is None
    files: dict[str, Any] = {"name": "m", "device": "cpu", "device_map": None}
    named = ModelSource("m", files, None, {})
    assert named.placed(0) == files
    assert named.placed(0.25) == files | {"device": "cuda"}
    assert named.placed(2) == files | {"device_map": "auto"}
