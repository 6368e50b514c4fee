from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from outbox import errors
from outbox.errors import OutboxError

ERRORS = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, OutboxError)
]


def _made(cls: type[OutboxError]) -> OutboxError:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    given: list[Any] = [
        11 if each.annotation == "int" else f"the {each.name}" for each in parameters
    ]
    plain = [
        value
        for value, each in zip(given, parameters, strict=True)
        if each.kind is not each.KEYWORD_ONLY
    ]
    named: dict[str, Any] = {
        each.name: value
        for value, each in zip(given, parameters, strict=True)
        if each.kind is each.KEYWORD_ONLY
    }
    return cls(*plain, **named)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = _drawn(errors.__doc__ or "")
    assert drawn == {cls.__name__: (cls.__base__ or object).__name__ for cls in ERRORS}


def _drawn(text: str) -> dict[str, str]:
    """The name of each class in the drawing, with the name of its base."""
    tree = {"OutboxError": "ExplainedError"}
    above = {0: "OutboxError"}
    for line in text.splitlines():
        if match := re.match(r"^([│ ]*)[├└]── (\w+)", line):
            depth = len(match[1]) // 4 + 1
            above[depth] = match[2]
            tree[match[2]] = above[depth - 1]
    return tree


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_says_what_happened_and_what_to_do_next(cls: type[OutboxError]) -> None:
    error = _made(cls)
    assert error.problem
    assert error.next_step
    assert str(error) == f"{error.problem}; {error.next_step}"
    assert cls.__doc__


@pytest.mark.parametrize("cls", ERRORS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_a_process_pool(cls: type[OutboxError], protocol: int) -> None:
    error = _made(cls)
    error.add_note("a note")
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(twin) is cls
        assert (twin.problem, twin.next_step) == (error.problem, error.next_step)
        assert str(twin) == str(error)
        assert twin.__notes__ == ["a note"]


def test_every_error_can_be_caught_as_one() -> None:
    for cls in ERRORS:
        with pytest.raises(OutboxError):
            raise _made(cls)


def test_an_error_needs_a_next_step() -> None:
    with pytest.raises(TypeError, match="next_step"):
        errors.InvalidMessage("the problem")  # type: ignore[call-arg]  # what must fail
