"""How much memory this process holds, and the most that it held while something ran."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def resident_bytes(device: torch.device) -> int:
    """What is held now: on an accelerator what torch has allocated there, else the process's own memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _field("VmRSS")


def peak_growth(device: torch.device, run: Callable[[], object]) -> int | None:
    """By how much memory grew at most while this ran; None where the system does not tell."""
    before = resident_bytes(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    known = _reset_peak()
    run()
    return max(0, _field("VmHWM") - before) if known else None


def _reset_peak() -> bool:
    """Start the process's high-water mark anew, where the system lets us."""
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def _field(name: str) -> int:
    """A line of the process's status, in bytes; 0 where there is none."""
    try:
        found = re.search(rf"{name}:\s*(\d+) kB", STATUS.read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
