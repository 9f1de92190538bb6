"""Loading a model from the hub or a folder, at a revision, in a dtype, over devices."""

from __future__ import annotations

import atexit
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from struct import error as StructError  # noqa: N812
from tempfile import mkdtemp
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging

from cotrace import shipped
from cotrace.errors import InputError, ModelError, first_line, unknown
from cotrace.models.attention_interface import run_experts_eagerly
from cotrace.models.language_model import LanguageModel, label_of, wrap
from cotrace.validation import checked

CONFIG = "config.json"
PATIENCE_S = 10
SERVERS_FAULT = 500
"""Status of an answer from which on the server cannot serve anybody."""


def hub_options(name: str, revision: str | None) -> dict[str, Any]:
    """Return further options of loading: local files only, where the hub cannot be reached and they are there.

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
        return first_line(error).rstrip(".")
    return None


MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate")
UNREADABLE = (OSError, ValueError, KeyError, IndexError, RuntimeError, StructError)
"""Errors of parsing, among them for tensors of other shapes than the architecture's (RuntimeError)."""


def gguf_options(folder: str | Path, gguf_file: str | None, quantise: str | None) -> dict[str, Any]:
    """Return the options to load a local GGUF file; empty where none is named. Raises InputError, ModelError."""
    if gguf_file is None:
        return {}
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"gguf_file needs {' and '.join(missing)}: pip install 'cotrace[gguf]', or give a model in safetensors"
        )
    if quantise is not None:
        raise InputError(
            f"gguf_file is read as floating point, and quantise={quantise} keeps weights in few bits: give one of the "
            "two"
        )
    _check(Path(folder), gguf_file)
    return {"gguf_file": gguf_file}


def _check(folder: Path, name: str) -> None:
    """Raise ModelError where the file is not there, or no GGUF."""
    path = folder / name
    if not path.is_file():
        there = sorted(one.name for one in folder.glob("*.gguf")) if folder.is_dir() else []
        have = f"it holds {', '.join(there)}" if there else "it holds none; give model the folder that the file is in"
        raise ModelError(f"there is no GGUF file {name} in the folder {folder}: {have}")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{path} is no GGUF file, which begins with the letters GGUF: give one that is")


@contextmanager
def reading(name: str | None) -> Iterator[None]:
    """Around whatever parses a GGUF file: what goes wrong becomes one ModelError. Nothing without a name."""
    try:
        yield
    except UNREADABLE as error:
        if name is None:
            raise
        what = first_line(error).rstrip(".")
        if "architecture" in what:
            raise ModelError(
                f"cannot read {name}: {what} (it is transformers that reads GGUF files). Give the same model in "
                "safetensors"
            ) from error
        raise ModelError(
            f"cannot read {name}: it is damaged, cut short or not what transformers expects ({what}); fetch it again"
        ) from error


def stored_types(path: Path) -> str:
    """How many tensors a file keeps in which type, in words: ``Q4_1 (210), F32 (61)``; loaded, all are floats."""
    from gguf import GGUFReader

    counts = Counter(tensor.tensor_type.name for tensor in GGUFReader(str(path)).tensors)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())


DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@checked("ct.load_model")
def load_model(
    name: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    revision: str | None = None,
    quantise: str | None = None,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
) -> LanguageModel:
    """Load a decoder and its tokenizer from a Hugging Face id or a local folder. Raises ModelError, InputError.

    ``"shipped"`` is the small model that comes with cotrace.

    Weights are read from safetensors only, and no code of the repository is run unless ``trust_remote_code`` asks for
    it. ``quantise`` (``"8bit"``, ``"4bit"``) keeps the weights small through bitsandbytes; activations stay of type
    ``dtype``. ``device_map`` (``"auto"``, or module names and devices) spreads the layers over devices, main memory
    and disk (``offload_folder``: a temporary one unless given); it needs accelerate. Donors and masks follow each
    layer's device. ``gguf_file`` is the name of a GGUF file in the local folder ``name``: its weights, whatever bits it
    keeps them in, are read as floating point of type ``dtype``; it needs gguf and accelerate.

    Args:
        revision: Branch, tag or commit of the hub; None for the default branch.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}  # unsaid, transformers would ask at the terminal
    options |= {"revision": revision} if revision else {}
    if device_map is not None and (quantise or str(device) != "cpu"):
        other = f"quantise={quantise} keeps them on one device" if quantise else f"device={str(device)!r} does too"
        raise InputError(f"device_map says where the weights are, and {other}: give one of the two")
    target, source = _device(device), _source(name, gguf_file)
    options |= gguf_options(source, gguf_file, quantise)
    placed = _placement(device_map, offload_folder) | _quantisation(quantise, _dtype(dtype), target)
    options |= hub_options(source, revision)
    try:
        with reading(gguf_file), _quiet():
            AutoConfig.from_pretrained(source, **options)  # a folder's own code is refused here, before any weight
            kept = {} if gguf_file else {"use_safetensors": True}
            module = AutoModelForCausalLM.from_pretrained(source, dtype=_dtype(dtype), **kept, **options, **placed)
    except SafetensorError as error:
        raise ModelError(
            f"cannot load the model {str(name)!r}: its weights are damaged or cut short ({first_line(error)}); fetch "
            "or save the model again"
        ) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load the model {str(name)!r}: {_reason(error)}") from error
    if module.dtype == torch.float64:
        run_experts_eagerly(module)
    found = wrap(
        module if placed else module.to(target),
        _tokenizer(source, options),
        name=gguf_file or label_of(name),
        revision=revision,
    )
    arguments = {
        "name": str(name) if str(name) == shipped.NAME or not Path(source).is_dir() else str(Path(source).resolve()),
        "dtype": _dtype(dtype),
        "device": str(device),
        "device_map": device_map,
        "offload_folder": offload_folder,
        "revision": revision,
        "quantise": quantise,
        "trust_remote_code": trust_remote_code,
        "gguf_file": gguf_file,
    }
    return replace(found, loaded=arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loader's bars and notes; restores them afterwards."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    gguf_bar = modeling_gguf_pytorch_utils.tqdm  # which no setting silences
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = gguf_bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def model_config(
    name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False, gguf_file: str | None = None
) -> PreTrainedConfig:
    """A model's configuration, without its weights. Raises ModelError, InputError."""
    source = _source(name, gguf_file)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code} | ({"revision": revision} if revision else {})
    options |= gguf_options(source, gguf_file, None)
    try:
        with reading(gguf_file):
            config: PreTrainedConfig = AutoConfig.from_pretrained(source, **options, **hub_options(source, revision))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load the model {str(name)!r}: {_reason(error)}") from error
    return config


def _placement(device_map: str | Mapping[str, Any] | None, offload_folder: str | Path | None) -> dict[str, Any]:
    if device_map is None:
        if offload_folder is not None:
            raise InputError(
                "offload_folder is for weights that a device_map leaves on disk: give device_map='auto' as well, or "
                "leave offload_folder out"
            )
        return {}
    if find_spec("accelerate") is None:
        raise InputError("device_map needs accelerate: pip install 'cotrace[placement]', or leave device_map out")
    folder = _scratch() if offload_folder is None else str(offload_folder)
    return {"device_map": device_map if isinstance(device_map, str) else dict(device_map), "offload_folder": folder}


def _scratch() -> str:
    """A folder for weights that find no room, which goes when the process does."""
    folder = mkdtemp(prefix="cotrace-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _quantisation(quantise: str | None, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if quantise is None:
        return {}
    if quantise not in ("8bit", "4bit"):
        raise InputError(f"unknown quantisation {quantise!r}: choose 8bit or 4bit")
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        raise InputError(
            f"quantise={quantise} needs bitsandbytes and accelerate: pip install 'cotrace[quantised]', or leave it out"
        )
    four = quantise == "4bit"
    config = BitsAndBytesConfig(load_in_8bit=not four, load_in_4bit=four, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config, "device_map": {"": str(device)}}


def _source(name: str | Path, gguf_file: str | None = None) -> str:
    """The folder or id; of the model that ships, its folder."""
    name = shipped.model_folder(name)
    path = Path(name)
    if not str(name):
        raise ModelError("the model has no name: give a Hugging Face id, the folder of a saved model, or shipped")
    if not path.is_dir() and get_close_matches(str(name), [shipped.NAME], cutoff=0.8):
        raise unknown("model", name, [shipped.NAME, "a folder", "a Hugging Face id"])
    if gguf_file is None and path.suffix == ".gguf" and path.is_file():
        raise ModelError(f"{path} is a GGUF file: give the folder {path.parent}, and gguf_file='{path.name}'")
    if gguf_file is None and path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"the folder {path} holds no config.json: it is not a saved Hugging Face model")
    looks_local = path.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1
    if looks_local and not path.is_dir():
        raise ModelError(f"there is no folder {path}: give the folder of a saved model, or a Hugging Face id")
    return str(name)


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {str(device)!r} cannot be used: {first_line(error)}; use 'cpu'") from None
    return target


def _tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError):
        return None  # a model without a tokenizer is a model still; tasks that need one say so
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    return tokenizer if words else None  # where the files are missing, transformers makes one up without any words


def _reason(error: BaseException) -> str:
    """Return the reason of a failed load, and the remedy."""
    if "trust_remote_code" in str(error):
        return (
            "it brings code of its own, which is not run. If you have read that code and trust it, say "
            "--trust-remote-code (trust_remote_code=True)"
        )
    return f"{first_line(error)} Give the folder of a saved model, or a Hugging Face id"
