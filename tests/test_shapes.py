"""The checks of types and shapes that the suite runs under are in force, of functions, closures and dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from cotrace.objectives import sparsity, transformation
from tests.shapes import checked, checked_class, install, unchecked

if TYPE_CHECKING:
    from decimal import Decimal

WRONG = (BeartypeCallHintViolation, TypeCheckError)


@checked
def added(one: Float[Tensor, "n"], other: Float[Tensor, "n"], cut: int = 0) -> Float[Tensor, "n"]:
    return (one + other)[cut:]


@checked
def counted(words: list[str], *, most: float = 2, later: Later | None = None) -> int:
    return len(words) if len(words) <= most else "many"  # type: ignore[return-value]


@checked
def known_to_type_checkers(value: Decimal, count: int) -> Iterator[int]:
    yield count


class Later:
    """Defined behind what names it."""


def closure(scale: float) -> Callable[..., Tensor]:
    @checked
    def scaled(x: Tensor, *more: Tensor, by: int = 1) -> Tensor:
        return x * scale * by if by else None  # type: ignore[return-value]

    return scaled


@checked_class
@dataclass(frozen=True)
class Measured:
    name: str
    values: Float[Tensor, "n"]


def test_a_shape_is_checked_against_the_others_and_in_what_is_returned() -> None:
    x, y = torch.ones(2), torch.ones(3)
    assert added(x, x).tolist() == [2, 2]
    for given in ((x, y), (x, x, 1), (x, x, "0"), (x[None], x[None])):
        with pytest.raises(TypeCheckError):
            added(*given)


def test_a_type_is_checked_in_what_is_given_and_returned() -> None:
    assert counted(["a"], most=1, later=Later()) == 1
    for given, named in (((1,), {}), ((["a"] * 3,), {}), ((["a"],), {"most": "1"}), ((["a"],), {"later": 1})):
        with pytest.raises(WRONG):
            counted(*given, **named)  # type: ignore[arg-type]


def test_what_only_type_checkers_know_is_left_and_the_rest_is_checked() -> None:
    assert list(known_to_type_checkers("any", 1)) == [1]  # type: ignore[arg-type]
    with pytest.raises(WRONG):
        known_to_type_checkers("any", "1")  # type: ignore[arg-type]


def test_every_closure_of_a_function_is_checked() -> None:
    for scale in (2.0, 3.0):
        scaled = closure(scale)
        assert scaled(torch.ones(1)).item() == scale
        for given, named in (((1,), {}), ((torch.ones(1),), {"by": "1"}), ((torch.ones(1),), {"by": 0})):
            with pytest.raises(WRONG):
                scaled(*given, **named)


def test_a_dataclass_is_checked_when_it_is_made() -> None:
    assert Measured("a", torch.ones(2)).name == "a"
    for given in ((1, torch.ones(2)), ("a", torch.ones(2, 2))):
        with pytest.raises(TypeCheckError):
            Measured(*given)  # type: ignore[arg-type]


def test_dataclasses_whose_fields_have_the_same_names_are_told_apart() -> None:
    @checked_class
    @dataclass
    class Other:
        name: int
        values: str

    assert Measured("a", torch.ones(2)).name == "a"
    assert Other(1, "b").values == "b"
    with pytest.raises(WRONG):
        Other("a", "b")  # type: ignore[arg-type]


def test_names_of_axes_are_a_calls_own_in_what_its_body_asks() -> None:
    @checked
    def asks(x: Tensor) -> bool:
        return isinstance(x, Float[Tensor, "n"])

    @checked
    def outer(x: Float[Tensor, "n"], other: Tensor) -> bool:
        return asks(other)

    assert outer(torch.ones(2), torch.ones(3))


def test_all_of_cotrace_is_checked_unless_it_is_run_as_users_run_it() -> None:
    with pytest.raises(TypeCheckError):
        sparsity(torch.zeros(2, 2))
    with pytest.raises(WRONG):
        transformation("log_odds", 1, "maximise")  # type: ignore[arg-type]
    with unchecked():
        sparsity(torch.zeros(2, 2))
    with pytest.raises(AssertionError, match="imported already"):
        install()
