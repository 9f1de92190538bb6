"""The hub out of reach: known at once, and one line says what to do."""

from typing import Any

import pytest

from cotrace.errors import ModelError
from cotrace.models import load_model, loading
from cotrace.models.loading import hub_options, unreachable


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No name is resolved; the addresses that were asked."""
    asked: list[str] = []

    def fail(url: str, **_: Any) -> None:
        asked.append(url)
        raise ConnectionError("[Errno -2] Name or service not known.\nmore")

    monkeypatch.setattr(loading, "get_hf_file_metadata", fail)
    return asked


def test_without_a_copy_the_line_says_what_to_do(offline: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(
        "cotrace.models.loading.AutoConfig.from_pretrained", lambda *_, **__: pytest.fail("transformers was asked")
    )
    with pytest.raises(ModelError) as caught:
        load_model("some/model", revision="abc")
    assert str(caught.value) == (
        "cannot load the model 'some/model': the Hugging Face hub cannot be reached ([Errno -2] Name or service not "
        "known), and no copy of the model is in the local cache: mend the network (or unset HF_HUB_OFFLINE), or give "
        "the folder of a saved model"
    )
    assert len(offline) == 1
    assert "some/model/resolve/abc/" in offline[0]


def test_a_copy_is_loaded_without_asking_again(offline: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    assert hub_options("some/model", None) == {"local_files_only": True}


def test_a_folder_needs_no_hub(offline: list[str], tmp_path: Any) -> None:
    assert hub_options(str(tmp_path), None) == {}
    assert not offline


@pytest.mark.parametrize(("status", "reason"), [(404, None), (401, None), (503, "it answers 503")])
def test_a_refusal_is_an_answer_and_a_broken_server_is_none(
    status: int, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer:
        status_code = status

    class Refused(loading.HfHubHTTPError):
        response = Answer()  # type: ignore[assignment]

        def __init__(self) -> None:
            """Without a real response."""

    def fail(*_: Any, **__: Any) -> None:
        raise Refused

    monkeypatch.setattr(loading, "get_hf_file_metadata", fail)
    assert unreachable("some/model", None) == reason


def test_what_is_no_id_is_left_to_loading() -> None:
    assert unreachable("a model with spaces", None) is None
