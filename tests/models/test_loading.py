"""What loading refuses: code that comes with a model, unless it was asked for."""

import json
from pathlib import Path

import pytest

from cotrace.cli.main import run
from cotrace.errors import ModelError
from cotrace.models import load_model
from tests import tiny


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A tiny Llama whose folder brings its own modelling code, which leaves a mark when it runs."""
    folder = tmp_path / "model"
    tiny.model("llama").module.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "llama_of_mine"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"""from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({str(tmp_path / "ran")!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "llama_of_mine"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
    )
    return folder


def test_code_of_a_model_is_not_run(with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the question whether to is asked at the terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    with pytest.raises(ModelError, match="--trust-remote-code") as caught:
        load_model(with_code)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_code_of_a_model_is_run_where_that_is_asked_for(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    model = load_model(with_code, trust_remote_code=True)
    assert type(model.module).__name__ == "OwnModel"
    assert (tmp_path / "ran").exists()


def test_the_remedy_that_a_command_names_is_one_that_it_takes(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    words = ["check", str(with_code), "--sites", "mlp_output", "--quiet"]
    assert run(words) == 2
    said = capfd.readouterr().err
    assert "--trust-remote-code" in said
    assert said.count("\n") == 1
    assert run([*words, "--trust-remote-code"]) == 0
    assert (tmp_path / "ran").exists()
