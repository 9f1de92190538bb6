"""Donor sources as text, the way they stand on the command line and in a config file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cotrace.components import Component
from cotrace.donors.noise import Noise
from cotrace.donors.sources import Counterfactual, DonorSource, Mean, Resample, Scale, Vector, Zero
from cotrace.errors import InputError, unknown
from cotrace.text.files import MOST_DIGITS, clipped

_NOISE = re.compile(r"(?P<std>\d+(\.\d+)?)(?P<x>x?)(@(?P<role>[A-Za-z_][\w-]*))?")
SUFFIX = ".safetensors"
_NAMED = "with a tensor for each component, named as L9.head6"


def donor_source(donors: str | DonorSource) -> DonorSource:
    """The source of that name: counterfactual, noise=0.6, noise=3x@subject,draws=8,seed=1, noise=FILE, zero, mean=task,
    mean=position, resample, resample=SEED, scale=0.2, vector=FILE (.safetensors). Raises UnknownName, InputError.

    Args:
        donors: A name, or a source, which is given back.
    """
    if not isinstance(donors, str):
        return donors
    name, _, value = donors.partition("=")
    if name not in _PARSERS:
        raise unknown("donor source", name, _PARSERS)
    return _PARSERS[name](value)


def donor_words(donors: str | DonorSource) -> str:
    """A source as text that ``donor_source`` reads; tensors are named in words.

    Args:
        donors: A name or a source.
    """
    match donors:
        case str():
            return donors
        case Noise(tensors=None):
            amount = f"{donors.std:g}" if donors.multiple is None else f"{donors.multiple:g}x"
            role = "" if donors.role == "all" else f"@{donors.role}"
            draws = f",draws={donors.draws}" if donors.draws != 1 else ""
            return f"noise={amount}{role}{draws}" + (f",seed={donors.seed}" if donors.seed else "")
        case Mean(reference=None):
            return "mean=position" if donors.per_position else "mean=task"
        case Resample(seed=seed) if seed:
            return f"resample={seed}"
        case Scale(factor=factor):
            return f"scale={factor:g}"
        case Noise() | Mean() | Vector():
            return f"{donors.name} (given by the user)"
    return donors.name


def _plain(source: Callable[[], DonorSource]) -> Callable[[str], DonorSource]:
    def parse(value: str) -> DonorSource:
        if value:
            raise InputError(f"donors={source().name!r} takes no value, but has {value!r}")
        return source()

    return parse


def _noise(value: str) -> Noise:
    """Amount and place, then draws and seed; or a file that holds the noise itself."""
    amount, *settings = value.split(",")
    more = dict(_noise_setting(value, word) for word in settings)
    if amount.endswith(SUFFIX):
        if more:
            raise InputError(f"donors='noise={value}': tensors are drawn already; leave {', '.join(more)} out")
        return Noise(tensors=_noise_tensors(amount))
    match = _NOISE.fullmatch(amount)
    if match is None:
        raise InputError(
            f"donors='noise={value}': write noise=0.6 (std), noise=3x (times the embeddings'), noise=3x@subject, "
            "noise=0.6,draws=8,seed=1 or noise=FILE.safetensors"
        )
    std, role = _finite("noise", match["std"]), match["role"] or "all"
    seed, draws = more.get("seed", 0), more.get("draws", 1)
    amounts: dict[str, Any] = {"multiple" if match["x"] else "std": std}
    return Noise(role=role, seed=seed, draws=draws, **amounts)


def _noise_setting(value: str, word: str) -> tuple[str, int]:
    """``draws=8`` or ``seed=1``."""
    name, _, number = word.strip().partition("=")
    if name not in ("draws", "seed"):
        raise InputError(f"donors='noise={value}': {unknown('setting of noise', name, ('draws', 'seed'))}")
    if not number.isdecimal() or len(number) > MOST_DIGITS:
        raise InputError(f"donors='noise={value}': {name} is a whole number, as in {name}=8")
    return name, int(number)


def _noise_tensors(path: str) -> dict[str, Tensor]:
    """The noise of each pair by its id, [position, d_model]."""
    found = _tensors(Path(path), "noise", "with one [position, d_model] tensor for each pair, named by its id")
    for name, tensor in found.items():
        _check_numbers(f"noise={path}", name, tensor)
    return found


def _mean(value: str) -> Mean:
    if value not in ("task", "position"):
        raise InputError(
            "donors='mean' needs a reference set: mean=task (pooled over the task's donor runs), mean=position (the "
            "same for each position), or cotrace.donors.Mean(reference=...)"
        )
    return Mean(per_position=value == "position")


def _resample(value: str) -> Resample:
    if value and (not value.isdecimal() or len(value) > MOST_DIGITS):
        reason = f"the value is a seed, a whole number of at most {MOST_DIGITS} digits"
        raise InputError(f"donors='resample={clipped(value)}': {reason}")
    return Resample(seed=int(value or 0))


def _scale(value: str) -> Scale:
    try:
        return Scale(_finite("scale", value))
    except ValueError:
        raise InputError(f"donors='scale={value}': write the factor, as in scale=0.2") from None


def _finite(name: str, value: str) -> float:
    """The number. Raises ValueError, and InputError where it is none that a value can be multiplied by."""
    found = float(value)
    if not isfinite(found):
        raise InputError(f"donors='{name}={clipped(value)}': the number is not finite; write one that is")
    return found


NUMBERS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _vector(value: str) -> Vector:
    if not value:
        raise InputError(
            f"donors='vector' needs tensors: write vector=FILE.safetensors {_NAMED}, or give "
            "cotrace.donors.Vector(values={component: tensor})"
        )
    values = _tensors(Path(value), "vector", _NAMED)
    for name, tensor in values.items():
        _check_tensor(value, name, tensor)
    return Vector(values=values)


def _tensors(path: Path, source: str, named: str) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(
            f"donors='{source}={path}': cannot read it ({error}); give a .safetensors file {named}"
        ) from None


def _check_tensor(path: str, name: str, tensor: Tensor) -> None:
    """One tensor of the file: a component's name, and numbers that a value can be. Raises InputError."""
    try:
        Component.parse(name)
    except InputError as error:
        raise InputError(f"donors='vector={path}': {error}; the file's tensors are named by components") from None
    _check_numbers(f"vector={path}", name, tensor)


def _check_numbers(donors: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in NUMBERS:
        raise InputError(f"donors='{donors}': {name} is of type {tensor.dtype}; give floating-point numbers")
    if not tensor.isfinite().all():
        raise InputError(f"donors='{donors}': {name} holds values that are not finite; give numbers")


def donor_file(donors: str | None) -> tuple[str, str] | None:
    """``vector`` or ``noise`` and the file that holds the tensors; None where donors come from no file.

    Args:
        donors: A name, or None.
    """
    name, _, value = (donors or "").partition("=")
    return (name, value) if value and (name == "vector" or (name == "noise" and value.endswith(SUFFIX))) else None


_PARSERS: Mapping[str, Callable[[str], DonorSource]] = {
    "counterfactual": _plain(Counterfactual),
    "noise": _noise,
    "zero": _plain(Zero),
    "mean": _mean,
    "resample": _resample,
    "scale": _scale,
    "vector": _vector,
}
