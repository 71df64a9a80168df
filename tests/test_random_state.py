"""The random state of a process: what it holds is what the generators hold, whoever drew from them or set them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raytrainer.random_state import HostRandomState, NumpyState, PythonState


def is_same(one: Any, other: Any) -> bool:
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def generators_afterwards_as_before() -> Any:
    before = HostRandomState.now()
    yield
    before.restore()


@pytest.mark.parametrize(
    "act",
    [
        lambda: None,
        lambda: np.random.random(),
        lambda: np.random.normal(),
        lambda: (np.random.normal(), np.random.normal()),
        lambda: np.random.random(700),
        lambda: np.random.seed(5),
        lambda: np.random.set_state(np.random.RandomState(7).get_state()),
        lambda: np.random.shuffle(list(range(9))),
    ],
    ids=["nothing", "uniform", "normal", "normals", "many", "seed", "set", "shuffle"],
)
def test_numpys_state_is_the_one_that_numpy_gives(act: Callable[[], object]) -> None:
    state = NumpyState()
    for _ in range(3):
        act()
        assert is_same(state.now(), np.random.get_state())


def test_the_second_half_of_a_pair_of_normal_numbers_is_seen_to_be_used_up() -> None:
    state = NumpyState()
    np.random.seed(0)
    np.random.normal()
    before = state.now()
    np.random.normal()
    after = state.now()
    assert before[3] == 1
    assert after[3] == 0
    assert is_same(after, np.random.get_state())


def test_numpys_state_is_not_copied_again_where_nothing_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    state = NumpyState()
    np.random.seed(0)
    first = state.now()
    monkeypatch.setattr(np.random, "get_state", lambda: pytest.fail("it was read again"))
    assert is_same(state.now(), first)


def test_a_state_that_was_taken_before_does_not_change_when_something_draws() -> None:
    state = NumpyState()
    np.random.seed(0)
    state.now()
    taken = state.now()
    copy = taken[1].copy()
    np.random.random(700)
    state.now()
    assert np.array_equal(taken[1], copy)


def test_another_generator_of_numpys_is_read_as_it_is() -> None:
    state, mine = NumpyState(), np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.MT19937(3))
    try:
        assert is_same(state.now(), np.random.get_state())
    finally:
        np.random.set_bit_generator(mine)


def test_a_state_that_is_restored_gives_the_same_numbers() -> None:
    before = HostRandomState.now()
    drawn = np.random.normal(size=3), torch.rand(3)
    before.restore()
    again = np.random.normal(size=3), torch.rand(3)
    assert is_same(drawn, again)
    before.restore()
    assert is_same(HostRandomState.now().states["numpy"], before.states["numpy"])


@pytest.mark.parametrize(
    "act",
    [
        lambda: None,
        lambda: random.random(),
        lambda: random.gauss(0, 1),
        lambda: (random.gauss(0, 1), random.gauss(0, 1)),
        lambda: [random.random() for _ in range(700)],
        lambda: random.seed(5),
        lambda: random.setstate(random.Random(7).getstate()),
        lambda: random.shuffle(list(range(9))),
    ],
    ids=["nothing", "uniform", "normal", "normals", "many", "seed", "set", "shuffle"],
)
def test_pythons_state_is_the_one_that_python_gives(act: Callable[[], object]) -> None:
    state = PythonState()
    for _ in range(3):
        act()
        assert state.now() == random.getstate()


def test_that_the_other_half_of_a_pair_is_kept_is_seen_in_pythons_state_though_its_words_are_the_same() -> (
    None
):
    state = PythonState()
    random.seed(0)
    random.gauss(0, 1)
    before = state.now()
    random.gauss(0, 1)
    assert before[2] is not None
    assert state.now()[2] is None


def test_pythons_state_is_not_made_again_where_nothing_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    state = PythonState()
    found = state.now()
    monkeypatch.setattr(random, "getstate", lambda: pytest.fail("asked again"))
    assert state.now() is found


def test_where_the_memory_is_not_known_python_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PythonState, "_look", lambda self: bytes(2500))
    state = PythonState()
    random.random()
    first = state.now()
    random.random()
    assert first != state.now() == random.getstate()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_first_run_of_a_process_ends_with_the_random_state_of_the_second(tmp_path):
    """Modules that draw when they are imported, as rich does, are imported in the first one."""
    code = """
import random, sys
import raytrainer
from tests.parity.twins import make_trainer
assert "rich.style" not in sys.modules
states = []
for name in ("first", "second"):
    make_trainer(raytrainer, f"{sys.argv[1]}/{name}", max_steps=1, save_strategy="no", report_page=False).train()
    states.append(random.getstate())
assert "rich.style" in sys.modules
assert states[0] == states[1]
"""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, timeout=120, env=environment)
