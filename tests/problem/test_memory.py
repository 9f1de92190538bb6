"""A memory budget changes where donor values are kept, and nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cotrace.errors import InputError
from cotrace.interventions import storage
from cotrace.interventions.storage import NoRoom, Storage, mapped
from cotrace.problem import LanguageProblem
from cotrace.problem.passes import FEWEST_TOKENS, free_memory, memory_budget
from tests import tiny
from tests.problem.test_packing import late_task

CPU = torch.device("cpu")
SMALL = "20KB"


def problem(memory: str | float | None, site: str = "attention_pattern", **more: object) -> LanguageProblem:
    return LanguageProblem(
        tiny.model("gpt2"), late_task(), sites=[site], holdout=0.3, memory=memory, **{"direction": "maximise", **more}
    )  # type: ignore[arg-type]


def figures(built: LanguageProblem) -> list[torch.Tensor]:
    z = torch.linspace(0, 1, len(built.space), dtype=torch.float64)
    assert built.heldout is not None
    return [built.effects(z), built.effects(torch.eye(len(z))), built.gradient(z), built.heldout.effects(z)]


@pytest.mark.parametrize("site", ["attention_pattern", "head_output"])
@pytest.mark.parametrize("donors", ["counterfactual", "noise=2x", "resample"])
def test_memory_disk_and_recomputing_give_the_same(
    site: str, donors: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    task = tiny.task(12) if donors == "resample" else late_task()
    options = {"sites": [site], "holdout": 0.3, "donors": donors, "batch_tokens": 8}

    def built(memory: str | None) -> LanguageProblem:
        return LanguageProblem(tiny.model("gpt2"), task, memory=memory, **{"direction": "maximise", **options})  # type: ignore[arg-type]

    whole, spilled = built(None), built("9KB")
    assert whole.plan.disk_bytes == 0
    assert spilled.plan.memory_bytes <= 9000
    assert spilled.plan.disk_bytes > 0
    monkeypatch.setattr(storage, "free_disk", lambda: 0)
    again = built("9KB")
    assert again.plan.disk_bytes == 0
    assert again.plan.recomputed_bytes > 0
    for one, other, third in zip(figures(whole), figures(spilled), figures(again), strict=True):
        assert torch.equal(one, other)
        assert torch.allclose(one, third, atol=1e-10)
    assert not list(tmp_path.iterdir())


def test_a_mapped_tensor_is_a_safetensors_file_that_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    copies: list[Path] = []
    reserve = storage._reserve

    def keep_a_link(path: Path, header: bytes, count: int) -> None:
        reserve(path, header, count)
        (link := tmp_path / "link.safetensors").hardlink_to(path)
        copies.append(link)

    monkeypatch.setattr(storage, "_reserve", keep_a_link)
    room = mapped(torch.bfloat16, (3, 5))
    room.copy_(torch.arange(15).reshape(3, 5))
    with safe_open(copies[0], "pt") as file:
        assert torch.equal(file.get_tensor("values"), room)
    copies[0].unlink()
    assert not list(tmp_path.iterdir())
    assert torch.equal(room.float(), torch.arange(15.0).reshape(3, 5))
    assert mapped(torch.float32, (0, 4)).shape == (0, 4)


def test_a_full_disk_gives_back_what_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "free_disk", lambda: 0)
    room = Storage(100)

    def both() -> None:
        with room.together():
            room(torch.empty(0), (10,))
            room(torch.empty(0), (100,))

    with pytest.raises(NoRoom):
        both()
    assert not room.used
    room(torch.empty(0), (25,))
    assert dict(room.used) == {"memory": 100}


def test_the_least_that_will_do_is_named() -> None:
    with pytest.raises(
        InputError, match=r"memory 1KB \(1,000 bytes\) is below the minimum of ([\d,]+) bytes"
    ) as caught:
        problem("1KB", "head_output")
    least = int(str(caught.value).split("minimum of ")[1].split(" bytes")[0].replace(",", ""))
    assert problem(f"{least}B", "head_output").plan.memory_bytes <= least
    with pytest.raises(InputError, match="below the minimum"):
        problem(f"{least - 1}B", "head_output")


@pytest.mark.parametrize(
    ("given", "expected"), [("4GB", 4e9), ("512MiB", 2**29), ("1.5 kib", 1536), ("7b", 7), (4096, 4096), ("2G", 2e9)]
)
def test_sizes_are_read_as_people_write_them(given: str | int, expected: float) -> None:
    assert memory_budget(given, CPU) == expected


def test_shares_are_of_what_is_free() -> None:
    free = free_memory(CPU)
    assert free > 2**24
    assert memory_budget(0.5, CPU) == pytest.approx(free / 2, rel=0.2)
    assert memory_budget(None, CPU) == pytest.approx(memory_budget("0.5", CPU), rel=0.2)
    assert memory_budget(1, CPU) == pytest.approx(free, rel=0.2), "all of it, not one byte"


@pytest.mark.parametrize("bad", ["lots", "-1GB", "0", 0.0, "1 parsec", "", "nan"])
def test_what_is_no_size_is_refused(bad: str | float) -> None:
    with pytest.raises(InputError, match="neither a size nor a share"):
        problem(bad)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("site", ["attention_pattern", "head_output", "residual", "mlp_neuron"])
def test_recomputed_activations_give_the_same_gradient(family: str, site: str) -> None:
    task = late_task() if site != "residual" else tiny.task()
    options = {"sites": [site], "holdout": 0}
    plain = LanguageProblem(tiny.model(family), task, checkpointing="off", **{"direction": "maximise", **options})  # type: ignore[arg-type]
    again = LanguageProblem(tiny.model(family), task, checkpointing="on", **{"direction": "maximise", **options})  # type: ignore[arg-type]
    z = torch.linspace(0, 1, len(plain.space), dtype=torch.float64)
    assert torch.allclose(plain.gradient(z), again.gradient(z), atol=1e-6)
    assert plain.gradient(z).abs().max() > 1e-3
    assert all("forward" not in vars(layer.module) for layer in tiny.model(family).layers)


def test_recomputing_keeps_less_for_the_backward_pass() -> None:
    model, kept = tiny.model("llama"), []
    z = torch.linspace(0, 1, 12, dtype=torch.float64)
    for option in ("off", "on"):
        scorer = LanguageProblem(
            model, tiny.task(), sites=["head_output"], checkpointing=option, direction="maximise"
        ).training.scorer  # type: ignore[arg-type]
        sizes: list[int] = []

        def pack(t: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            scorer.run(z[None].clone().requires_grad_(), scorer.all_layouts[0])
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_a_size_bounds_what_a_pass_holds_and_a_share_or_given_tokens_do_not() -> None:
    """34 numbers of the width for each layer and 3 of the vocabulary are held for a token, 8 bytes each."""
    model = tiny.model("gpt2")
    config = model.module.config
    token = 8 * (34 * config.n_embd * config.n_layer + 3 * config.vocab_size)
    within = problem(f"{2 * 1000 * token}B", "head_output")
    assert within.packing.batch_tokens == 1000
    assert within.storage.budget == 1000 * token
    assert problem(f"{8 * 1000 * token}B", "head_output").packing.batch_tokens == 4000
    plain = problem(None, "head_output").packing.batch_tokens
    assert problem(0.5, "head_output").packing.batch_tokens == plain > 4000
    given = problem(f"{100 * token}B", "head_output", batch_tokens=8)
    assert given.packing.batch_tokens == 8
    assert given.storage.budget == 92 * token
    tight = problem(SMALL, "head_output")
    assert tight.packing.batch_tokens == FEWEST_TOKENS
    assert tight.storage.budget == 10_000, "half is for what is kept, however much a pass takes"


def test_tokens_and_positions_that_are_equal_are_one_object() -> None:
    found = problem(None, "head_output").encoding.pairs
    same = [pair for pair in found if len(pair.prompt) == len(found[0].prompt)]
    assert len(same) > 1
    assert all(pair.donor_positions is same[0].donor_positions is pair.roles["all"] for pair in same)
