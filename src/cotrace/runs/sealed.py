"""Files that carry their own hash: JSON in an envelope, and text with a last line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cotrace.errors import DamagedRun, InputError
from cotrace.json_file import read_bytes

LINE = "# sha256 of the lines above: "


def seal(payload: dict[str, Any]) -> bytes:
    """The payload as JSON, with its hash."""
    return (json.dumps({"sha256": _hash(payload), "payload": payload}, ensure_ascii=False) + "\n").encode()


def unseal(path: Path) -> dict[str, Any]:
    """Inverse of ``seal``, from a file. Raises DamagedRun where it cannot be read or its hash differs."""
    try:
        data: Any = json.loads(read_bytes(path))  # not as strict as a user's file: counts may be infinite
    except InputError as error:
        raise DamagedRun(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise DamagedRun(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DamagedRun(f"{path} is damaged: it is not the JSON that a run writes") from None
    payload = data.get("payload") if isinstance(data, dict) else None
    if not isinstance(payload, dict) or data.get("sha256") != _hash(payload):
        raise DamagedRun(f"{path} is damaged: its content does not have the hash that it names")
    return payload


def _hash(payload: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def seal_text(text: str) -> bytes:
    """The text with a comment behind it that holds its hash."""
    content = text.encode()
    return content + f"{LINE}{hashlib.sha256(content).hexdigest()}\n".encode()


def text_is_whole(text: str) -> bool | None:
    """Whether a sealed text is as it was written; None where its last line holds no hash: cut short, or not sealed."""
    body, found, written = text.rpartition(LINE)
    if not found or not body.endswith("\n") or "\n" in written.rstrip("\n"):
        return None
    return hashlib.sha256(body.encode()).hexdigest() == written.strip()
