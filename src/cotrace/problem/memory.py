"""Memory budgets: sizes as people write them, what is free, and the least that a problem can do with."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

from cotrace.errors import InputError

SHARE = 0.5
"""Share of the free memory that donor values and kept prefixes may take by default."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]i?)?(b|bytes?)?\s*", re.IGNORECASE)
CGROUP = Path("/sys/fs/cgroup")


def memory_budget(given: str | float | int | None, device: torch.device) -> int:
    """Bytes: of a size (4GB, 512MiB), of a share of what is free (0.5), or of half of it where None. InputError."""
    if given is None:
        return int(SHARE * free_memory(device))
    number, unit = _parsed(given)
    if unit is None and number <= 1:
        return int(number * free_memory(device))
    return int(number * UNITS[(unit or "").lower()])


def is_size(given: str | float | int | None) -> bool:
    """Whether this is a number of bytes, which is the same on every machine and at any time."""
    if given is None:
        return False
    number, unit = _parsed(given)
    return unit is not None or number > 1


def check_memory(given: str | float | int | None) -> None:
    """Raise InputError for what is neither a size nor a share."""
    if given is not None:
        _parsed(given)


def _parsed(given: str | float | int) -> tuple[float, str | None]:
    """The number, and its unit; a plain number up to 1 is a share. Raises InputError."""
    found = SIZE.fullmatch(str(given))
    if found is None or float(found[1]) <= 0 or isinstance(given, bool):
        raise InputError(
            f"memory {given!r} is neither a size nor a share of what is free: write 4GB, 512MiB or 0.5, say"
        )
    return float(found[1]), "" if found[3] and not found[2] else found[2]


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; of main memory what the system or its container leaves."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free, left = int(psutil.virtual_memory().available), _container()
    return free if left is None else max(0, min(free, left))


def _container() -> int | None:
    """What a control group leaves; None where there is no bound."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdigit() else None


def check_budget(given: str | float | int, budget: int, least: int) -> None:
    """Raise InputError where a budget that was given is below what one forward pass needs."""
    if budget < least:
        raise InputError(
            f"memory {given} ({budget:,} bytes) is below the minimum of {least:,} bytes, which the donor values of one "
            "forward pass take: give at least that, or fewer batch_tokens"
        )
