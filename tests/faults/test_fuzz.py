"""Fuzzing in small: mutated inputs to every reader end in a value or in the project's own one-line error.

`python -m benchmarks.fuzz` does the same at length, guided by coverage.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.readers import Reader, readers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a changed config is warned about
NAMES = [
    "json_lines", "config", "component_names", "selection_names", "donor_names", "selection_files", "winobias",
    "winogender", "professions", "counterfact", "ioi", "auto_circuit", "prompts", "text", "run_manifest.json",
    "run_config.yaml", "run_selection.json", "run_effects.safetensors", "run_evaluation.json", "run_tradeoff.json",
    "run_examples.json",
]  # fmt: skip
JSON_READERS = ["json_lines", "selection_files", "counterfact", "ioi", "auto_circuit", "prompts", "run_selection.json"]
DRAWN = ["run_evaluation.json", "run_tradeoff.json", "run_examples.json"]
"""What is taken is drawn as a report, which takes a while."""
JSON_READERS += DRAWN


def quickly(names: list[str]) -> list[Any]:
    """The names; those whose content is drawn are slow."""
    return [pytest.param(name, marks=pytest.mark.slow if name in DRAWN else ()) for name in names]


ODD = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"{",
    b"}",
    b"[",
    b'"',
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 40,
    b"9" * 6000,
    b"\\ud800",
    b"\n",
]
ODD += [
    b"[" * 2000,
    b"[" * 200_000,
    b"&a [*a]",
    b"!!python/object/apply:os.system [id]",
    "\u202e\U0001f600".encode(),
    b"../../x",
    b"@",
    b".",
]
VALUES = [
    None,
    True,
    -1,
    10**30,
    1.5e308,
    "",
    "\n",
    "\x00",
    "../../etc",
    "L9.head6",
    [],
    {},
    [[]],
    {"a": None},
    "x" * 3000,
]


@pytest.fixture(scope="module")
def by_name() -> dict[str, Reader]:
    found = {reader.name: reader for reader in readers()}
    assert sorted(found) == sorted(NAMES)
    return found


@pytest.mark.parametrize("name", quickly(NAMES))
def test_bytes_changed_at_random_never_crash_a_reader(by_name: dict[str, Reader], name: str) -> None:
    reader = by_name[name]
    taken: list[bool] = []
    cuts = st.tuples(st.floats(0, 1), st.floats(0, 0.05), st.sampled_from(ODD) | st.binary(max_size=8))

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(list(reader.seeds)), st.lists(cuts, min_size=1, max_size=4))
    def tried(content: bytes, changes: list[tuple[float, float, bytes]]) -> None:
        for place, length, new in changes:
            start = int(place * len(content))
            content = content[:start] + new + content[start + int(length * len(content)) :]
        taken.append(reader.try_one(content))  # anything but a value or our own one-line error goes up

    tried()
    assert len(taken) >= 40
    assert not all(taken), "no input was refused, so no check of the reader was reached"


@pytest.mark.parametrize("name", quickly(JSON_READERS))
def test_well_formed_json_with_values_of_other_kinds_never_crashes_a_reader(
    by_name: dict[str, Reader], name: str
) -> None:
    reader = by_name[name]
    taken: list[bool] = []
    seed = reader.seeds[0].splitlines()[0] if name == "json_lines" else reader.seeds[0]

    most = 20 if name in DRAWN else 60

    @settings(
        max_examples=most, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(st.integers(0, 200), max_size=8), st.sampled_from(VALUES), st.booleans())
    def tried(path: list[int], value: object, remove: bool) -> None:
        taken.append(reader.try_one(json.dumps(changed(json.loads(seed), path, value, remove)).encode()))

    tried()
    assert len(taken) >= most
    assert any(taken), "every input was refused, so nothing behind the first check was reached"
    assert not all(taken), "no input was refused, so no check of the reader was reached"


def changed(data: object, path: list[int], value: object, remove: bool) -> object:
    """The data with what stands at the end of the path replaced or removed."""
    if not path or not isinstance(data, (dict, list)) or not data:
        return value
    keys = list(data) if isinstance(data, dict) else range(len(data))
    key = keys[path[0] % len(data)]
    if remove and len(path) == 1:
        del data[key]
    else:
        data[key] = changed(data[key], path[1:], value, remove)
    return data


def test_every_reader_takes_what_it_should(by_name: dict[str, Reader]) -> None:
    """Otherwise fuzzing would never come past the first check."""
    for name, reader in by_name.items():
        if name == "winogender":
            continue  # its seed holds an input that is nearly right
        assert all(reader.try_one(seed) for seed in reader.seeds), name
