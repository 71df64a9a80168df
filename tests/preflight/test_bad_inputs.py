"""Every bad input of the catalogue gives its message on the driver, and none reaches a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrainer.driver.workers import Workers
from raytrainer.errors import RayTrainerError, WrongTypeError
from tests.preflight.bad_inputs import Bad, catalogue, trainer

CASES = list(catalogue())


class ReachedWorkersError(Exception):
    """A call would have started workers."""


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: object, **kwargs: object) -> None:
        raise ReachedWorkersError

    monkeypatch.setattr(Workers, "call", start)


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.what)
def test_it_gives_its_message_before_any_worker_starts(bad: Bad) -> None:
    with pytest.raises(RayTrainerError, match=f"(?s){bad.words}"):
        bad.give()


def test_there_are_hundreds() -> None:
    assert len(CASES) >= 300


def test_a_good_input_reaches_the_workers() -> None:
    with pytest.raises(ReachedWorkersError):
        trainer().train()


def test_arguments_are_checked_again_in_one_process_too(tmp_path: Path) -> None:
    made = trainer({"num_workers": 0, "max_steps": 1, "save_strategy": "no", "output_dir": str(tmp_path)})
    made.train()
    made.args.max_steps = 1.5
    with pytest.raises(WrongTypeError, match=r"max_steps=1\.5 is not a whole number"):
        made.train()
