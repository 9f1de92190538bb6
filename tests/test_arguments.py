"""Arguments of another kind than a function takes: one line that names the call, the argument and the remedy."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from enum import Enum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import cotrace as ct
import cotrace.donors
from cotrace.errors import InputError, UnknownName
from cotrace.evaluation.measured import Measurement
from cotrace.models import LanguageModel
from cotrace.problem.full_swap import Breakdown
from cotrace.results.outcomes import Tradeoff
from cotrace.search import SEARCHES, Limits, Random, SearchState
from cotrace.validation import checked, guarded
from tests import shapes, tiny
from tests.problems import ClosedForm, modular

TASK = ct.tasks.demo_bias()
PROBLEM: Any = object.__new__(ct.LanguageProblem)
MODEL: Any = tiny.model("llama")
"""Never run: what is refused is refused before."""


@pytest.fixture(autouse=True)
def _as_users_run_it() -> Iterator[None]:
    """Without the type checks of the test suite, which users do not have."""
    with shapes.unchecked():
        yield


def wrong(call: str) -> tuple[str, Callable[[], Any], str]:
    """A call as text, as a function, and the words that its error starts with."""
    return call, lambda: eval(call, {"ct": ct, "model": MODEL, "task": TASK}), call.partition("(")[0]


@pytest.mark.parametrize(
    ("call", "act", "named"),
    [
        wrong("ct.LanguageProblem('gpt2', task)"),
        wrong("ct.LanguageProblem(model, 'pairs.jsonl')"),
        wrong("ct.LanguageProblem(None, task)"),
        wrong("ct.LanguageProblem(model, None)"),
        wrong("ct.LanguageProblem(model)"),
        wrong("ct.LanguageProblem(model, task, seed=-1)"),
        wrong("ct.LanguageProblem(model, task, seed=True)"),
        wrong("ct.LanguageProblem(model, task, holdout='a')"),
        wrong("ct.LanguageProblem(model, task, donors=3)"),
        wrong("ct.LanguageProblem(model, task, sites=3)"),
        wrong("ct.LanguageProblem(model, task, sites=[3])"),
        wrong("ct.trace('gpt2', task)"),
        wrong("ct.trace(model, task, max_sizee=3)"),
        wrong("ct.trace(model, task, search=3)"),
        wrong("ct.load_model(3)"),
        wrong("ct.check(None)"),
        wrong("ct.check(model, sites=3)"),
        wrong("ct.measure('gpt2', task)"),
        wrong("ct.tasks.winobias(None)"),
        wrong("ct.tasks.ioi(size='a')"),
        wrong("ct.report.write(None, 'report.html')"),
        wrong("ct.report.frontier(None)"),
        wrong("ct.evaluate(None, None)"),
        wrong("ct.apply('gpt2', ['L0.head1'])"),
        wrong("ct.editing.generate(model, ['The'], None)"),
        wrong("ct.editing.sweep(model, task, ['L0.head1'])"),
        wrong("ct.Constraint(None, 0.1)"),
        wrong("ct.Constrained(None, [])"),
        wrong("ct.Constrained(None)"),
        wrong("ct.WeightedSum(None)"),
    ],
    ids=lambda value: value if isinstance(value, str) and "(" in value else "",
)
def test_a_wrong_kind_of_argument_is_one_line_that_names_the_call(
    call: str, act: Callable[[], Any], named: str
) -> None:
    with pytest.raises(InputError) as caught:
        act()
    assert str(caught.value).startswith(f"{named}: ")


def is_base(value: Any) -> bool:
    """Whether others stand in its stead: each search refuses for itself."""
    return value is ct.search.Search or getattr(value, "_is_protocol", False)


def public(room: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Everything that can be called by a public name, in rooms too; protocols, bases, errors and enums are no calls."""
    for part in getattr(room, "__all__", [part for part in vars(room) if part[0] not in "_@"]):
        value = getattr(room, part)
        if isinstance(value, ModuleType) and value.__name__.startswith("cotrace.") and value is not ct.errors:
            yield from public(value, f"{name}.{part}")
        elif not callable(value) or (isinstance(value, type) and issubclass(value, BaseException | Enum)):
            continue
        elif value.__module__.startswith(room.__name__) and not is_base(value):
            yield f"{name}.{part}", value


PUBLIC = dict(public(ct, "ct")) | dict(public(ct.donors, "ct.donors"))


class Stranger:
    """Of no kind that anything takes."""


def wrong_calls(value: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of another kind, one too many, one of an unknown name, and none where some are needed."""
    parameters = [
        p for p in inspect.signature(value).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if parameters:
        yield (), {parameter.name: Stranger() for parameter in parameters}
    yield tuple(Stranger() for _ in range(40)), {}
    yield (), {"stranger": 1}
    if any(parameter.default is parameter.empty for parameter in parameters):
        yield (), {}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_answers_a_wrong_call_in_one_line(name: str) -> None:
    assert len(PUBLIC) > 110
    for given, named in wrong_calls(PUBLIC[name]):
        with pytest.raises(InputError) as caught:
            PUBLIC[name](*given, **named)
        assert "\n" not in str(caught.value)


HANDED = (LanguageModel, Breakdown, Measurement, Tradeoff, SearchState, ct.Site)
"""Classes whose instances users are given."""
CLASSES = {f"{one.__module__}.{one.__name__}": one for one in (*PUBLIC.values(), *HANDED) if isinstance(one, type)}


def methods(owner: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of a class, each bound to an instance without any state where it needs one."""
    for name in dict.fromkeys(name for one in owner.__mro__ for name in vars(one)):
        method = inspect.getattr_static(owner, name)
        function = getattr(method, "__func__", method)
        if isinstance(function, FunctionType) and (name == "__call__" or name[0] != "_"):
            alone = function is not method or issubclass(owner, Enum)
            yield name, getattr(owner, name) if alone else partial(function, object.__new__(owner))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_public_method_answers_a_wrong_call_in_one_line(name: str) -> None:
    """The state of the instance is never reached: a call that does not fit fails where its arguments are bound."""
    for called, method in methods(CLASSES[name]):
        parameters = inspect.signature(method).parameters.values()
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            calls.append(((Stranger(),) * 40, {}))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            calls.append(((), {"stranger": 1}))
        if any(p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
            calls.append(((), {}))
        for given, named in calls:
            with pytest.raises(InputError, match=rf"{called.strip('_')}|{CLASSES[name].__name__}") as caught:
                method(*given, **named)
            assert "\n" not in str(caught.value)


def test_the_methods_that_are_walked_are_those_that_users_call() -> None:
    walked = {f"{owner.__name__}.{name}" for owner in CLASSES.values() for name, _ in methods(owner)}
    assert {
        "LanguageProblem.effects",
        "LanguageProblem.gradient",
        "Task.from_records",
        "Frontier.at",
        "Selection.parse",
        "Site.named",
        "Greedy.__call__",
        "LanguageModel.space",
        "Circuit.role",
        "ComponentSpace.index",
        "Scale.settled",
    } <= walked


def test_an_error_of_ones_own_inside_a_method_is_not_taken_for_a_wrong_call() -> None:
    @guarded("T")
    class T:
        def halve(self, number: float) -> float:
            if number == 1:
                raise TypeError("inside")
            return number / 2

    assert T().halve(3) == 1.5
    with pytest.raises(TypeError, match=r"^inside$"):
        T().halve(1)
    with pytest.raises(InputError, match=r"^T.halve: number is 'a'; give a number$"):
        T().halve("a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (ct.Task.from_jsonl, "^Task.from_jsonl: missing a required argument: 'path'$"),
        (lambda: ct.Task.from_jsonl(3), "^Task.from_jsonl: path is 3; give text or a path$"),
        (ct.known.IOI.role, "^Circuit.role: missing a required argument: 'name'$"),
        (lambda: MODEL.space(stes=["head_output"]), "^model.space: unknown option 'stes': did you mean 'sites'"),
        (lambda: ct.LanguageProblem.effects(PROBLEM, 1, exmaples=3), "'exmaples': did you mean 'examples'"),
        (lambda: ct.LanguageProblem.gradient(PROBLEM), "^LanguageProblem.gradient: missing a required argument: 'z'"),
        (
            lambda: ct.search.Pursuit(20),
            r"^ct.search.Pursuit: 20 is one argument too many; name it, as in max_size=20$",
        ),
        (
            lambda: ct.search.Pursuit(max_sise=20),
            "^ct.search.Pursuit: unknown option 'max_sise': did you mean 'max_size'",
        ),
        (lambda: ct.search.named("pursuit", max_sise=20), "'max_sise': did you mean 'max_size'"),
        (lambda: ct.Selection(["L0.head1"]), "^ct.Selection: .*one argument too many; name it, as in members="),
        (
            lambda: ct.Selection(members=["L0.head1"]),
            r"^ct.Selection: members is .*; give a list of Component \(make one",
        ),
        (lambda: ct.Component("head_output", 1, 2), r"^ct.Component: site is 'head_output'; give a Site \(such as"),
        (lambda: ct.Component(ct.Site.HEAD_OUTPUT, 1.5, 2), "^ct.Component: layer is 1.5; give a whole number"),
        (lambda: ct.Site("head_outputt"), "^unknown site 'head_outputt': did you mean 'head_output'"),
        (lambda: MODEL.space(["head_outputt"]), "^unknown site 'head_outputt': did you mean 'head_output'"),
        (lambda: MODEL.space(3), "^model.space: sites is 3; give a list"),
        (lambda: ct.report.head_map(None, 3), "^ct.report.head_map: frontier is None; give a Frontier"),
        (lambda: ct.report.to_png("a.png"), "^ct.report.to_png: figure is 'a.png'; give a Figure"),
        (lambda: ct.tasks.demo_bias(3), "^ct.tasks.demo_bias: 3 is one argument too many$"),
        (lambda: ct.tasks.demo_bias(size=3), "^ct.tasks.demo_bias takes no options$"),
    ],
)
def test_a_wrong_call_says_what_to_write(act: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        act()


def test_sites_by_name_and_lists_of_components_are_as_good() -> None:
    model = ct.load_model("shipped")
    assert model.space(["head_output"]) == model.space((ct.Site.HEAD_OUTPUT,)) == model.space("head_output")
    members = [ct.Component.parse("L0.head1")]
    assert hash(ct.Selection(members=members)) == hash(ct.Selection.parse("0.1"))  # type: ignore[arg-type]


def test_a_mask_of_nothing_is_said_and_not_guessed() -> None:
    problem = ct.LanguageProblem(ct.load_model("shipped"), TASK, sites=["mlp_output"])
    for nothing in (
        [],
        (),
        torch.zeros(0, 5),
        torch.zeros(5, dtype=torch.cfloat),
        [ct.Selection(members=()), "L0.mlp"],
    ):
        with pytest.raises(InputError, match="mask"):
            problem.effects(nothing)
    assert not problem.effects(ct.Selection(members=())).any(), "no component chosen is the base run"


def test_the_line_says_where_one_gets_what_is_needed() -> None:
    with pytest.raises(
        InputError, match=r"^ct.LanguageProblem: model is 'gpt2'; give a LanguageModel \(make one with ct"
    ):
        ct.LanguageProblem("gpt2", TASK)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^ct.trace: unknown option 'max_sizee': did you mean 'max_size'\?"):
        ct.trace(MODEL, TASK, max_sizee=3)
    with pytest.raises(InputError, match=r"seed is -1; give a whole number of at least 0"):
        ct.LanguageProblem(MODEL, TASK, seed=-1)


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_a_setting_of_a_search_is_checked_where_the_search_is_made(name: str) -> None:
    kinds = SEARCHES[name].__dataclass_fields__  # type: ignore[attr-defined]
    for setting in ({"max_size", "seed", "epochs"} & set(kinds)) or set(kinds):
        with pytest.raises(InputError, match=f"^{name}: {setting} is 'a'"):
            SEARCHES[name](**{setting: "a"})
    if "seed" in kinds:
        with pytest.raises(InputError, match=f"^{name}: seed is -1"):
            SEARCHES[name](seed=-1)


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_a_search_of_something_else_than_a_problem_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: problem is None; give a Problem"):
        SEARCHES[name]()(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("forward_equivalents", -1, "at least 0"),
        ("forward_equivalents", "a", "a number"),
        ("elapsed_s", float("inf"), "at least 0"),
        ("effect", float("nan"), "finite"),
    ],
)
def test_a_limit_that_is_none_is_refused(setting: str, value: object, remedy: str) -> None:
    with pytest.raises(InputError, match=f"^Limits: {setting} is .*{remedy}"):
        Limits(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda: ct.search.PGBCT(epochs=2, order=np.arange(16).reshape(2, 8) % 8), {"order": ((*range(8),),) * 2}),
        (lambda: ct.search.PGBCT(epochs=1, order=[np.arange(8)]), {"order": ((*range(8),),)}),
        (lambda: ct.search.PGBCT(epochs=2, l1=np.array([0.001, 0.002])), {"l1": (0.001, 0.002)}),
        (lambda: ct.search.HardConcrete(lambdas=np.array([0.25, 1.0])), {"lambdas": (0.25, 1.0)}),
        (lambda: ct.search.Pursuit(sizes=range(1, 4)), {"sizes": (1, 2, 3)}),
        (lambda: ct.search.Pursuit(sizes=np.arange(1, 4)), {"sizes": (1, 2, 3)}),
        (lambda: ct.search.Pursuit(sizes=torch.arange(1, 4)), {"sizes": (1, 2, 3)}),
        (lambda: ct.search.Attribution(sizes={1, 2}), {"sizes": (1, 2)}),
    ],
)
def test_arrays_ranges_and_sets_are_lists_in_a_search(make: Callable[[], Any], plain: dict[str, Any]) -> None:
    given = make()
    assert given == replace(given, **plain)
    assert {name: type(getattr(given, name)) for name in plain} == dict.fromkeys(plain, tuple)
    problem = ClosedForm(modular([1.0, 3.0, 2.0, 0.5]), 4)
    assert [(one.k, one.effect) for one in given(problem)] == [
        (one.k, one.effect) for one in type(given)(**asdict(given))(problem)
    ]


def test_arrays_sets_and_one_text_are_lists_in_a_problem() -> None:
    model = ct.load_model("shipped")
    for sites in ({"mlp_output"}, np.array(["mlp_output"]), "mlp_output", ["mlp_output"]):
        problem = ct.LanguageProblem(model, TASK, sites=sites, roles="last")
        assert list(problem.space.names) == [f"L{layer}.mlp@last" for layer in range(5)]


@pytest.mark.parametrize(
    "act",
    [
        lambda: ct.search.Pursuit(sizes=np.array([0.5])),
        lambda: ct.LanguageProblem(MODEL, TASK, donors=ct.donors.Zero),
        lambda: ct.trace(MODEL, TASK, search=ct.search.Greedy),
        lambda: ct.search.Greedy()(MODEL),
        lambda: ct.search.Greedy()(TASK),
        lambda: ct.WeightedSum([(1.0, MODEL), (1.0, MODEL)]),
        lambda: ct.WeightedSum([(1.0,)]),
    ],
)
def test_what_lacks_what_is_asked_for_is_refused(act: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match="; give "):
        act()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"result": []}, "there is no result to judge"),
        ({"result": ct.Selection.parse([])}, "the selection is empty"),
        ({"pairs": "audti"}, "unknown pairs 'audti': did you mean 'audit'"),
        ({"stability": 3}, r"give search=ct.search.Pursuit\(\)"),
        ({"side": [TASK]}, "is asked of a language model"),
        ({"against": {"a": ["L0.head1"]}}, r"against\['a'\] is \['L0.head1'\]; give a Selection or a Circuit"),
    ],
)
def test_what_an_evaluation_cannot_do_is_refused_before_it_begins(options: dict[str, Any], words: str) -> None:
    problem = ClosedForm(modular([1.0, 3.0, 2.0, 0.5]), 4)
    found = {"result": Random(draws=2)(problem)} | options
    spent = problem.cost.forward_equivalents
    with pytest.raises((InputError, UnknownName), match=words):
        ct.evaluate(problem, **found)
    assert problem.cost.forward_equivalents == spent


def test_a_pair_is_checked_each_by_its_own_kind() -> None:
    @checked("f")
    def f(pairs: Sequence[tuple[float, str]]) -> int:
        return len(pairs)

    assert f([(1.0, "a"), [2, "b"]]) == 2  # type: ignore[list-item]
    for wrong_pairs in ([("a", 1.0)], [(1.0, "a", "b")], [1.0]):
        with pytest.raises(InputError, match=r"^f: pairs is"):
            f(wrong_pairs)  # type: ignore[arg-type]


def test_an_unknown_transformation_is_refused_where_the_search_is_made() -> None:
    with pytest.raises(UnknownName, match="unknown transformation 'x'"):
        ct.search.PGBCT(transformation="x")
    assert ct.search.PGBCT(transformation="linear").transformation == "linear"


def test_a_wrong_level_of_evaluation_is_said_before_the_search_is_paid_for() -> None:
    with pytest.raises(UnknownName, match="level"):
        ct.trace(MODEL, TASK, evaluation="quik")


def test_names_may_be_one_text_and_stand_once() -> None:
    assert ct.Selection.parse("9.6") == ct.Selection.parse(["L9.head6"])
    for names in (["9.6", "L9.head6"], None, 3, [3]):
        with pytest.raises(InputError, match=r"^Selection.parse: "):
            ct.Selection.parse(names)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^Component.parse: text is None; give text"):
        ct.Component.parse(None)  # type: ignore[arg-type]


def test_pairs_and_tasks_hold_what_they_declare() -> None:
    with pytest.raises(InputError, match="pair a: answers is ' she'; give a list"):
        ct.PromptPair(id="a", base="The nurse said", answers=" she")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pair a: target is 'x'; give a whole number"):
        ct.PromptPair(id="a", base="The nurse said", answers=(" she",), target="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"task t: pairs is \[3\]"):
        ct.Task(name="t", pairs=[3])  # type: ignore[arg-type]


@checked("f")
def f(number: float, names: Sequence[str] = (), place: str | Path | None = None, count: int = 1, *rest: int) -> str:
    """Something of every kind."""
    return f"{number} {names} {place} {count} {rest}"


@pytest.mark.parametrize(
    "arguments",
    [(1,), (np.float32(1), ["a"]), (1.0, "a"), (1, (), None), (1, (), Path("x"), np.int64(3)), (1, [], "x", 2, 3)],
)
def test_what_is_as_good_passes(arguments: tuple[Any, ...]) -> None:
    """Numpy's numbers, whole numbers where any will do, a text for a list of one."""
    assert f(*arguments).startswith(str(arguments[0]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("1",), "number is '1'; give a number"),
        ((True,), "number is True; give a number"),
        ((1, [2]), r"names is \[2\]; give a list"),
        ((1, 2), "names is 2; give a list"),
        ((1, (), 3), "place is 3; give text or a path"),
        ((1, (), None, 1.0), "count is 1.0; give a whole number"),
        ((), "missing a required argument: 'number'"),
    ],
)
def test_what_is_not_is_said(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InputError, match=f"^f: {said}$"):
        f(*arguments)


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Else ``ct.NAME`` may be the module, once anything has imported it, and the reference finds no function."""
    functions = [name for name in ct.__all__ if not isinstance(getattr(ct, name), ModuleType) and name != "__version__"]
    assert [name for name in functions if find_spec(f"cotrace.{name}") is not None] == []
