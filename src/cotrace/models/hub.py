"""The hub, asked once before a model is loaded: where it does not answer, the local cache or one line at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from cotrace.errors import ModelError

CONFIG = "config.json"
PATIENCE_S = 10
SERVERS_FAULT = 500
"""Status of an answer from which on the server cannot serve anybody."""


def hub_options(name: str, revision: str | None) -> dict[str, Any]:
    """What loading is told besides: to look at local files only, where the hub cannot be reached and they are there.

    Unasked, transformers tries for half a minute for each file. Raises ModelError where there is no local copy.
    """
    if Path(name).is_dir():
        return {}
    reason = unreachable(name, revision)
    if reason is None:
        return {}
    if isinstance(try_to_load_from_cache(name, CONFIG, revision=revision), str):
        return {"local_files_only": True}
    raise ModelError(
        f"cannot load the model {name!r}: the Hugging Face hub cannot be reached ({reason}), and no copy of the model "
        "is in the local cache: mend the network (or unset HF_HUB_OFFLINE), or give the folder of a saved model"
    )


def unreachable(name: str, revision: str | None) -> str | None:
    """Why the hub does not answer; None where it does, be it with a refusal, which loading then explains."""
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision), timeout=PATIENCE_S)
    except HFValidationError:
        return None  # no id at all
    except HfHubHTTPError as error:
        status = error.response.status_code
        return f"it answers {status}" if status >= SERVERS_FAULT else None
    except Exception as error:  # the transport's own kinds, which differ from version to version
        return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    return None
