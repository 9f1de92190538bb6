"""Exit codes, the errors that are ours, and what starting costs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cotrace
from cotrace.cli import main
from cotrace.errors import CotraceError

HEAVY = ("torch", "transformers", "pandas", "altair", "numpy", "scipy")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import cotrace; dir(cotrace)",
        "from cotrace.cli.main import run; run(['--help'])",
        "from cotrace.cli.main import run; run(['trace', '--help'])",
        "from cotrace.cli.main import run; run(['--version'])",
        "from cotrace.cli.main import run; assert run(['trace', '--holdout', 'x', '--model', 'm', '--task', 't']) == 2",
    ],
)
def test_starting_loads_nothing_heavy(code: str) -> None:
    shown = f"import sys; print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    done = python("-c", f"{code}\n{shown}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("arguments", [("-c", "import cotrace"), ("-m", "cotrace", "--help")])
def test_starting_takes_less_than_a_second(arguments: tuple[str, ...]) -> None:
    """Processor time, the best of three: what the machine does besides does not count."""
    spent = []
    for _ in range(3):
        before = os.times()
        assert python(*arguments).returncode == 0
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(spent) < 1


def test_every_public_name_is_there_and_lazy() -> None:
    for name in cotrace.__all__:
        assert getattr(cotrace, name) is not None
    assert {"LanguageProblem", "Task", "load_model", "search", "tasks", "trace"} <= set(dir(cotrace))
    assert re.fullmatch(r"\d+\.\d+\.\d+", cotrace.__version__)


def fails(error: BaseException, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    def build() -> object:
        def app(_: list[str]) -> None:
            raise error

        return app

    monkeypatch.setattr(main, "build", build)
    return main.run(["trace", *options])


def test_an_error_of_ours_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert fails(ZeroDivisionError("by\nnothing"), monkeypatch) == 1
    err = capfd.readouterr().err
    assert err.startswith("cotrace: unexpected ZeroDivisionError: by nothing")
    assert err.count("\n") == 1
    log = next(tmp_path.glob("cotrace-error-*.log"))
    assert str(log) in err
    assert "Traceback (most recent call last)" in log.read_text()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert fails(CotraceError("two\nlines"), monkeypatch, "--debug") == 2
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("cotrace: two lines\n")


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert fails(KeyboardInterrupt(), monkeypatch) == 130
    assert capfd.readouterr().err == "cotrace: interrupted; nothing was written\n"


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_a_search(tiny_folder: Path, pairs_file: Path, tmp_path: Path) -> None:
    """A real process, interrupted once it has kept a step of its search."""
    out = tmp_path / "run"
    options = ["--model", str(tiny_folder), "--task", str(pairs_file), "--out", str(out)]
    endless = ["--search", "random", "--option.random.draws", "100000", "--sites", "mlp_neuron"]
    command = [sys.executable, "-m", "cotrace", "trace", *options, *endless, "--checkpoint-every-s", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob("checkpoint/*.json")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith(f"cotrace: interrupted; go on with: cotrace resume {out}\n")
    assert "Traceback" not in err
    assert list((out / "checkpoint").glob("*.json"))


def test_a_closed_pipe_is_no_error() -> None:
    """`cotrace tasks | head -1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "cotrace", "tasks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
    assert err == ""
    assert process.returncode == 0


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import warnings

    monkeypatch.setattr(main, "build", lambda: lambda _: warnings.warn("3 pairs refused", stacklevel=1))
    assert main.run([]) == 0
    assert capfd.readouterr().err == "cotrace: warning: 3 pairs refused\n"


def test_an_error_of_ours_without_room_for_its_file_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("what went wrong")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(main, "build", lambda: broken)
    monkeypatch.setattr(main.tempfile, "NamedTemporaryFile", full)
    assert main.run([]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected RuntimeError: what went wrong" in err
