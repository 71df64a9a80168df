"""A trial's training waits at each evaluation for what the sweep decides, and can be stopped at any moment."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import Evaluated
from raytrainer.tune.trial_run import Finished, TrialRun

pytestmark = pytest.mark.timeout(20)


class Trains:
    """Evaluates at steps 2, 4 and 6, unless it is told to stop. Between evaluations it may hold until it is asked."""

    def __init__(self, *, holds_at=None, evaluates=True):
        self.decisions = []
        self.asked = threading.Event()
        self.is_holding = threading.Event()
        self.holds_at, self.evaluates = holds_at, evaluates
        self._trial = {"learning_rate": 1.0}
        self._process = SimpleNamespace(workers=SimpleNamespace(ask=self._ask))
        self.run = None

    def _ask(self, command):
        self.asked.set()

    def train(self, *, resume_from_checkpoint, trial):
        assert trial == self._trial
        for step in (2, 4, 6) if self.evaluates else ():
            if step == self.holds_at:
                self.is_holding.set()
                assert self.asked.wait(15)
            event = Evaluated(step=step, epoch=0.0, metrics={"eval_loss": 1.0}, max_steps=6, checkpoint=None)
            self.decisions.append(self.run.decide(event))
            if self.decisions[-1] is not Command.NONE:
                return

    def evaluate(self):
        return {"eval_loss": 3.0}


def start(**how):
    trainer = Trains(**how.pop("trainer", {}))
    trainer.run = TrialRun(trainer, **how)
    return trainer, trainer.run


def test_each_evaluation_comes_once_and_then_the_end():
    trainer, run = start()
    assert [run.next().step for _ in range(3)] == [2, 4, 6]
    assert trainer.decisions == [Command.NONE] * 2, "it waits at the third one"
    assert run.next() == Finished(error=None, final_metrics=None)


def test_evaluations_that_were_reported_before_are_not_waited_for():
    trainer, run = start(reported_step=4)
    assert run.next().step == 6
    assert trainer.decisions == [Command.NONE] * 2


@pytest.mark.parametrize("command", [Command.STOP, Command.STOP_AFTER_SAVE])
def test_stop_at_an_evaluation_ends_the_training_there(command):
    trainer, run = start()
    run.next()
    assert run.stop(command) == Finished(error=None, final_metrics=None)
    assert trainer.decisions == [command]
    assert run.stop(command) is None, "it has ended"


def test_stop_between_evaluations_drops_the_one_that_comes_meanwhile():
    trainer, run = start(trainer={"holds_at": 4})
    run.next()
    assert run.next(unless=trainer.is_holding.is_set) is None, "training was asked about, and goes on"
    assert run.stop(Command.STOP_AFTER_SAVE) == Finished(error=None, final_metrics=None)
    assert trainer.decisions == [Command.NONE, Command.STOP_AFTER_SAVE]


def test_stop_before_the_beginning_starts_nothing():
    trainer, run = start()
    assert run.next(unless=lambda: True) is None
    assert run.stop() is None
    assert trainer.decisions == []


def test_training_without_evaluations_is_evaluated_at_its_end():
    _, run = start(trainer={"evaluates": False})
    assert run.next() == Finished(error=None, final_metrics={"eval_loss": 3.0})


def test_error_of_the_training_is_the_end():
    trainer, run = start()
    trainer._trial = None
    trainer.train = lambda **_: 1 / 0
    assert isinstance(run.next().error, ZeroDivisionError)
