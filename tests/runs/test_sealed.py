"""Files that carry their own hash: read back the same, and every change of a byte is seen."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotrace.errors import DamagedRun
from cotrace.runs.manifest import seal, seal_text, text_is_whole, unseal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@IN_ONE_FOLDER
@given(payload=st.dictionaries(st.text(), VALUES, max_size=4))
def test_a_payload_reads_back_the_same(payload: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    path.write_bytes(seal(payload))
    assert unseal(path) == payload


@IN_ONE_FOLDER
@given(data=st.data())
def test_a_change_is_seen(data: st.DataObject, tmp_path: Path) -> None:
    """Cut anywhere, or one byte changed: it fails, or says the same (a blank more or less)."""
    path, payload = tmp_path / "sealed.json", {"files": {"a": 1}, "effect": 0.25}
    content = seal(payload)
    at = data.draw(st.integers(0, len(content) - 2))
    if data.draw(st.booleans()):
        changed = content[:at]
    else:
        changed = content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :]
    path.write_bytes(changed)
    with contextlib.suppress(DamagedRun):
        assert unseal(path) == payload


@given(junk=st.binary(max_size=60))
@IN_ONE_FOLDER
def test_junk_is_refused(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    path.write_bytes(junk)
    with pytest.raises(DamagedRun):
        unseal(path)


def test_deep_nesting_and_wrong_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealed.json"
    for junk in (b"[" * 100_000, b"[]", b"3", b'{"sha256": 1, "payload": []}', b'{"payload": {}}'):
        path.write_bytes(junk)
        with pytest.raises(DamagedRun):
            unseal(path)


@given(st.text())
def test_sealed_text_is_whole_until_it_is_changed(text: str) -> None:
    lines = text.replace("\r", "") + "\n"
    sealed = seal_text(lines).decode()
    assert sealed.startswith(lines)
    assert text_is_whole(sealed)
    assert text_is_whole("x" + sealed) is False
    assert text_is_whole(sealed[: len(lines)]) is None
    assert not text_is_whole(sealed[:-2])
    assert text_is_whole(sealed + "more: 1\n") is None
