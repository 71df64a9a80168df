"""Which variables of a script are said to change on the workers alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import TrainerCallback

from raytrainer.wire.captured_state import captured_changes, warning

SEEN: list[int] = []
LABELS = {"yes": 1}
COUNT = 0


class Recorder:
    total = 0


RECORDER = Recorder()


def changes(*objects: object) -> list[tuple[str, str]]:
    return [(change.variable, change.kind) for change in captured_changes(objects)]


class CountsInModule(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        global COUNT  # noqa: PLW0603  what this is about
        COUNT += 1
        SEEN.append(state.global_step)
        RECORDER.total += LABELS["yes"]


class CountsInItself(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(LABELS["yes"])
        SEEN = [1]  # a variable of its own
        SEEN.append(2)


def test_a_callback_that_changes_its_module_is_found():
    assert changes(CountsInModule()) == [("COUNT", "int"), ("SEEN", "list"), ("RECORDER", "Recorder")]


def test_attributes_own_variables_and_what_is_only_read_are_left_alone():
    assert changes(CountsInItself(), TrainerCallback()) == []


@pytest.mark.parametrize("kind", ["list", "dict", "deque", "nested", "counter"])
def test_what_a_function_closes_over_is_found(kind: str):
    losses: list[float] = []
    by_step: dict[int, float] = {}
    newest: deque[float] = deque()
    history: dict[str, list[float]] = {"loss": []}
    times = 0

    def counts(value: float) -> None:
        nonlocal times
        times += 1

    functions = {
        "list": lambda value: losses.append(value),
        "dict": lambda value: by_step.update({1: value}),
        "deque": lambda value: newest.appendleft(value),
        "nested": lambda value: history["loss"].append(value),
        "counter": counts,
    }
    expected = {
        "list": ("losses", "list"),
        "dict": ("by_step", "dict"),
        "deque": ("newest", "deque"),
        "nested": ("history", "dict"),
        "counter": ("times", "int"),
    }
    assert changes(functions[kind]) == [expected[kind]]


def test_a_method_of_a_library_is_left_alone():
    from sklearn.linear_model import LinearRegression

    assert changes(LinearRegression()) == []


def test_what_the_standard_library_adds_to_a_class_is_left_alone():
    @dataclass
    class Collator:
        pad: int = 0

    assert captured_changes([Collator()]) == []


def test_the_warning_names_function_variable_and_what_to_do():
    text = warning(captured_changes([CountsInModule()]))
    assert text.startswith("CountsInModule.on_step_end changes `COUNT` (int); ")
    assert "attributes of the callback or the trainer" in text
