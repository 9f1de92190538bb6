"""One writer for a run: a second is refused, and a process that was killed holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cotrace.errors import RunBusy
from cotrace.runs.directory import locked

HOLD = """
import sys, time
from pathlib import Path
from cotrace.runs.directory import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunBusy, match="another process is writing the run"), locked(tmp_path):
            pass
        process.kill()
        process.wait()
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()
