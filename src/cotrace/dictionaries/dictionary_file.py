"""Dictionary files: SAELens' ``cfg.json`` with safetensors, and Gemma Scope's ``params.npz``. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cotrace.dictionaries.dictionary import NORMS, Dictionary
from cotrace.errors import InputError, unknown
from cotrace.text.files import clipped

CFG, WEIGHTS, NPZ = "cfg.json", "sae_weights.safetensors", "params.npz"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file({{k: v.contiguous() for k, v in torch.load('{path}', weights_only=True).items()}}, '{target}')\""
)
ARCHITECTURES = ("standard", "gated", "topk", "jumprelu")
TRANSCODERS = {
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
OLDER = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
"""Key of a cfg.json before SAELens 6 -> its name now."""
GEMMA_HOOKS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
GEMMA_IN, GEMMA_OUT = "ln2.hook_normalized", "hook_mlp_out"
NUMBERS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Found:
    """A dictionary on disk whose weights have not been read."""

    folder: Path
    cfg: Mapping[str, Any]
    """Its description, under the names that are in use now, in one level."""

    @property
    def name(self) -> str:
        """The end of its path: what messages call it."""
        return "/".join(self.folder.parts[-2:])

    @property
    def weights(self) -> Path:
        """The file of its weights. Raises InputError where there is none."""
        return _weights_file(self.folder)

    @property
    def hook(self) -> str:
        """The place that it reads. Raises InputError where neither file nor user names one."""
        hook = self.cfg.get("hook_name")
        if not isinstance(hook, str) or not hook:
            raise InputError(
                f"dictionary {self.name}: its files do not say where it belongs; give hook, as in "
                "hook='blocks.5.hook_mlp_out'"
            )
        return hook

    @property
    def layer(self) -> int | None:
        """The layer that its hook names."""
        return layer_of(self.hook)


def layer_of(hook: str) -> int | None:
    """The first number of a hook's name: its layer, as that name counts it."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", hook)
    return None if number is None else int(number[1])


def found_in(path: Path, hook: str | None = None) -> list[Found]:
    """The dictionaries in a folder and those below it, by path. Raises InputError."""
    if path.suffix in PICKLES:
        raise pickled(path)
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise InputError(f"dictionaries {path}: there is no such folder; give one, or an id of the Hugging Face hub")
    files = sorted([*folder.rglob(CFG), *folder.rglob(NPZ)])
    places = dict.fromkeys(file.parent for file in files)
    if not places:
        pickles = sorted(file for file in folder.rglob("*") if file.suffix in PICKLES)
        if pickles:
            raise pickled(pickles[0])
        raise InputError(f"dictionaries {path}: neither {CFG} nor {NPZ} is in it; give the folder that holds them")
    return [_found(place, hook) for place in places]


def pickled(path: Path) -> InputError:
    """The refusal of a pickle, with the command that makes safetensors of it."""
    command = CONVERT.format(path=path, target=path.parent / WEIGHTS)
    return InputError(
        f"{path} may be a pickle, which can run code when it is read: convert it with {command} and put a {CFG} beside"
        " it"
    )


def _found(folder: Path, hook: str | None) -> Found:
    cfg = read_cfg(folder / CFG) if (folder / CFG).is_file() else gemma_cfg(folder.as_posix())
    if hook is not None and not cfg.get("hook_name"):
        cfg = {**cfg, "hook_name": hook}
    return Found(folder, cfg)


def _weights_file(folder: Path) -> Path:
    named = [folder / WEIGHTS, folder / NPZ]
    others = sorted(p for p in folder.glob("*.safetensors") if p.name != "sparsity.safetensors")
    for path in (*named, *others[:1]):
        if path.is_file():
            return path
    pickles = sorted(p for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise pickled(pickles[0])
    raise InputError(f"dictionary {folder}: it has no {WEIGHTS} beside its {CFG}; get the file again")


def read_cfg(path: Path) -> dict[str, Any]:
    """A description, under the names that are in use now, in one level. Raises InputError."""
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot read it ({clipped(str(error))}); get the file again") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: it holds no settings; give the {CFG} of a dictionary")
    flat = {OLDER.get(str(name), str(name)): value for name, value in raw.items() if name != "metadata"}
    metadata = raw.get("metadata")
    return flat | {str(name): value for name, value in (metadata if isinstance(metadata, dict) else {}).items()}


def gemma_cfg(path: str) -> dict[str, Any]:
    """Return the description that Gemma Scope gives by the names of its folders."""
    layer = re.search(r"layer_(\d+)", path)
    kind = re.search(r"gemma-scope-(\w+)-(pt|it)-(res|mlp|att|transcoders)", path)
    cfg: dict[str, Any] = {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    if kind and layer:
        size = f"{kind[1]}-it" if kind[2] == "it" else kind[1]
        where = f"blocks.{layer[1]}."
        cfg |= {"model_name": f"gemma-2-{size}", "hook_name": where + GEMMA_HOOKS.get(kind[3], GEMMA_IN)}
        if kind[3] == "transcoders":
            cfg |= {"architecture": "jumprelu_transcoder", "hook_name_out": where + GEMMA_OUT}
    return cfg


def read_dictionary(found: Found) -> Dictionary:
    """The dictionary with its weights. Raises InputError, NonFiniteError."""
    cfg, name = found.cfg, found.name
    weights = _weights(found.weights)
    kind, transcoder = _architecture(cfg, name)
    hook, hook_out = found.hook, cfg.get("hook_name_out") or found.hook
    if transcoder and hook_out == hook:
        raise InputError(f"dictionary {name}: a transcoder's {CFG} must name hook_name_out, the place that it writes")
    parts = _encoder(kind, cfg, weights, name)
    _check_sizes(cfg, weights, name)
    decoder = weights["W_dec"] * parts.pop("rows")[:, None]
    subtract = cfg.get("apply_b_dec_to_input", True) and not transcoder
    return Dictionary(
        name=name,
        hook=hook,
        hook_out=str(hook_out),
        decoder=decoder,
        offset=weights["b_dec"],
        shift=weights["b_dec"] if subtract else None,
        skip=weights.get("W_skip"),
        norm=_norm(cfg, name),
        head=_head(cfg, name),
        architecture=str(cfg.get("architecture") or "standard"),
        model_name=_text(cfg, "model_name"),
        neuronpedia=_text(cfg, "neuronpedia_id"),
        sha256=_sha256(found.weights),
        **parts,
    )


def _head(cfg: Mapping[str, Any], name: str) -> int | None:
    """The head that it is of, where it is of one. Raises InputError."""
    head = cfg.get("hook_head_index")
    if head is not None and (type(head) is not int or head < 0):
        raise InputError(f"dictionary {name}: hook_head_index is {head!r} in its {CFG}; give a head's number from 0")
    return head


def _text(cfg: Mapping[str, Any], key: str) -> str | None:
    value = cfg.get(key)
    return value if isinstance(value, str) and value else None


def _architecture(cfg: Mapping[str, Any], name: str) -> tuple[str, bool]:
    """Which of the four rules, and whether it is a transcoder. Raises UnknownName, InputError."""
    given = str(cfg.get("architecture") or "standard")
    function = str(cfg.get("activation_fn") or "relu")
    if given in TRANSCODERS:
        return TRANSCODERS[given], True
    if given not in ARCHITECTURES:
        raise unknown(f"architecture of dictionary {name}", given, (*ARCHITECTURES, *TRANSCODERS))
    if function == "topk":
        given = "topk"
    elif function != "relu" and not function.startswith(("topk", "TopK")):
        raise InputError(f"dictionary {name}: its activation is {function}; relu, topk and JumpReLU are read")
    return given, False


def _norm(cfg: Mapping[str, Any], name: str) -> Any:
    """How the input is normed as it runs; a constant factor is in the weights."""
    given = cfg.get("normalize_activations")
    if given in (None, False, True, "expected_average_only_in"):
        return "none"
    if given not in NORMS:
        raise InputError(
            f"dictionary {name}: its input is normed by {given!r}; {', '.join(NORMS)} are read: fold it into the "
            "weights with SAELens, and save it again"
        )
    return given


def _encoder(kind: str, cfg: Mapping[str, Any], weights: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Encoder, bias and rule in the form of ``Dictionary``; ``rows`` is what the decoder's rows are multiplied by."""
    encoder, ones = weights["W_enc"].T, torch.ones(len(weights["W_dec"]))
    rows = weights.get("finetuning_scaling_factor", ones)
    if kind == "gated":
        gate, magnitude, log_gain = _needed(weights, name, "b_gate", "b_mag", "r_mag")
        gain = log_gain.exp()
        return {
            "encoder": (encoder * gain[:, None]).contiguous(),
            "bias": magnitude,
            "threshold": magnitude - gain * gate,
            "rows": rows,
        }
    (bias,) = _needed(weights, name, "b_enc")
    plain: dict[str, Any] = {"encoder": encoder.contiguous(), "bias": bias, "rows": rows}
    if kind == "jumprelu":
        (threshold,) = _needed(weights, name, "threshold")
        return plain | {"threshold": threshold}
    if kind == "topk":
        k = cfg.get("k", (cfg.get("activation_fn_kwargs") or {}).get("k"))
        if type(k) is not int:
            raise InputError(f"dictionary {name}: its {CFG} does not say k, the number of active features; add it")
        norms = weights["W_dec"].norm(dim=-1) if cfg.get("rescale_acts_by_decoder_norm") else ones
        return {
            "encoder": plain["encoder"] * norms[:, None],
            "bias": bias * norms,
            "k": k,
            "rows": rows / norms,
        }
    return plain


def _needed(weights: Mapping[str, Tensor], name: str, *keys: str) -> list[Tensor]:
    missing = [key for key in keys if key not in weights]
    if missing:
        raise InputError(
            f"dictionary {name}: its weights have no {missing[0]} (they have {', '.join(sorted(weights))}): its {CFG} "
            "names another architecture"
        )
    return [weights[key] for key in keys]


def _check_sizes(cfg: Mapping[str, Any], weights: Mapping[str, Tensor], name: str) -> None:
    """Check the sizes that the description states. Raises InputError."""
    found = {"d_in": weights["W_enc"].shape[0], "d_sae": weights["W_enc"].shape[1], "d_out": weights["W_dec"].shape[1]}
    for key, size in found.items():
        if isinstance(cfg.get(key), int) and cfg[key] != size:
            raise InputError(f"dictionary {name}: {key} is {cfg[key]} in its {CFG}, and {size} in its weights")


def _weights(path: Path) -> dict[str, Tensor]:
    """Tensors by SAELens' names, as float32 (float64 stays)."""
    found = _arrays(path) if path.suffix == ".npz" else _safetensors(path)
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        key = "W_" + name[2:] if name.startswith("w_") else name
        if key == "log_threshold":
            key, tensor = "threshold", tensor.exp()
        if key == "scaling_factor":
            key = "finetuning_scaling_factor"
        if tensor.dtype not in NUMBERS:
            raise InputError(f"{path}: {clipped(name)} is of type {tensor.dtype}; give floating-point numbers")
        tensors[key] = tensor if tensor.dtype == torch.float64 else tensor.float()
    for key in ("W_enc", "W_dec", "b_dec"):
        _needed(tensors, str(path), key)
        if tensors[key].ndim != (1 if key == "b_dec" else 2):
            raise InputError(f"{path}: {key} has {tensors[key].ndim} axes; get the file again")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{path}: cannot read it ({clipped(str(error))}); get the file again") from None


def _arrays(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: torch.from_numpy(np.ascontiguousarray(data[name])) for name in data.files}
    except Exception as error:  # zip, header and dtype errors are of many kinds
        raise InputError(f"{path}: cannot read it without pickle ({clipped(str(error))}); get the file again") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_dictionary(dictionary: Dictionary, folder: str | Path, **about: Any) -> Path:
    """Write a dictionary as SAELens reads it, ``cfg.json`` and ``sae_weights.safetensors``; gives the folder.

    What ``architecture`` it is follows from its rule; further keywords go into the file's ``metadata``. Raises
    OSError.

    Args:
        dictionary: The dictionary.
        folder: New folder.
        about: Entries of the file's ``metadata``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in _saved(dictionary)}
    save_file(tensors, folder / WEIGHTS)
    metadata = {
        "sae_lens_version": "6.0.0",
        "model_name": dictionary.model_name,
        "hook_name": dictionary.hook,
        "neuronpedia_id": dictionary.neuronpedia,
        **({"hook_name_out": dictionary.hook_out} if dictionary.is_transcoder else {}),
        **about,
    }
    cfg: dict[str, Any] = {
        "architecture": _saved_architecture(dictionary),
        "d_in": dictionary.d_in,
        "d_sae": dictionary.size,
        "dtype": "float32",
        "apply_b_dec_to_input": dictionary.shift is not None,
        "normalize_activations": dictionary.norm,
        "reshape_activations": "hook_z" if dictionary.hook.endswith("hook_z") else "none",
        "metadata": metadata,
    }
    cfg |= {"k": dictionary.k} if dictionary.k is not None else {}
    cfg |= {"hook_head_index": dictionary.head} if dictionary.head is not None else {}
    cfg |= {"d_out": dictionary.d_out} if dictionary.is_transcoder else {}
    (folder / CFG).write_text(json.dumps(cfg, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def _saved_architecture(dictionary: Dictionary) -> str:
    plain = "topk" if dictionary.k is not None else "standard" if dictionary.threshold is None else "jumprelu"
    if not dictionary.is_transcoder:
        return plain
    if plain == "topk":
        raise InputError(f"dictionary {dictionary.name}: SAELens has no top-k transcoder; use ReLU or JumpReLU")
    skip = "skip_" if dictionary.skip is not None else ""
    return f"{'jumprelu_' if plain == 'jumprelu' else ''}{skip}transcoder"


def _saved(dictionary: Dictionary) -> Iterator[tuple[str, Tensor]]:
    shift = dictionary.shift
    if shift is not None and not torch.equal(shift, dictionary.offset):
        raise InputError(f"dictionary {dictionary.name}: SAELens takes the decoder's bias from the input, no other one")
    yield "W_enc", dictionary.encoder.T.float()
    yield "b_enc", dictionary.bias.float()
    yield "W_dec", dictionary.decoder.float()
    yield "b_dec", dictionary.offset.float()
    if dictionary.threshold is not None:
        yield "threshold", dictionary.threshold.float()
    if dictionary.skip is not None:
        yield "W_skip", dictionary.skip.float()
