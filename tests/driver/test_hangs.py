from __future__ import annotations

import pytest
import ray.exceptions

from raytrainer.control.state import Update
from raytrainer.driver import hangs
from raytrainer.driver.hangs import Hangs, words_for
from raytrainer.telemetry.events import StepDone
from raytrainer.wire.messages import Place, RankProcess, Ranks


class Time:
    now = 0.0

    def __call__(self):
        return self.now


class Control:
    def __init__(self):
        self.ended = []
        self.ranks = Ranks(places=[waiting(0)], silent=[process(1)])

    def ask_places(self):
        pass

    def places(self):
        if self.ranks is None:
            raise ray.exceptions.GetTimeoutError("not in time")
        return self.ranks

    def end(self):
        self.ended.append("control actor")

    def end_hung(self, attempt, how):
        self.ended.append((attempt, how))


def waiting(rank, at="loop/boundary.py:55 in agree_on_control"):
    return Place(rank=rank, collective="all_reduce", at=at)


def process(rank):
    return RankProcess(rank=rank, pid=100 + rank, started=1.0, host="host", node_id="n", log_file=None)


def stepped(number, attempt=2):
    event = StepDone(step=number, max_steps=99, epoch=0.0, samples_per_s=[])
    return Update(events=[event], attempt=attempt, is_running=True)


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(hangs, "ANSWER_S", 0.0)

    def make(warning_s=60.0, timeout_s=None):
        make.control, make.shown, make.time, make.killed = Control(), [], Time(), []

        def examine(silent, ends):
            make.killed += [one.rank for one in silent if ends]
            return {one.rank: f"{one.pid} on host is stopped" for one in silent}

        return Hangs(
            warning_s,
            timeout_s,
            make.control,
            log_dir="out/logs",
            show=lambda note: make.shown.append(note.text),
            examine_silent=examine,
            in_thread=lambda target: target(),
            clock=make.time,
        )

    return make


def after(make, one, seconds):
    make.time.now += seconds
    one.look()


def test_the_driver_says_who_waits_for_whom(make):
    one = make()
    one.follow(stepped(5))
    after(make, one, 59)
    assert make.shown == []
    after(make, one, 2)
    assert make.shown == [
        "No progress for 61 s: step 5 was done. Rank 0 waits for the others in all_reduce (loop/boundary.py:55 in "
        "agree_on_control); rank 1 did not come: process 101 on host is stopped. The Python stacks of all ranks are in "
        "out/logs."
    ]
    after(make, one, 30)
    assert len(make.shown) == 1
    after(make, one, 60)
    assert len(make.shown) == 2, "again when it has taken twice as long"
    one.follow(stepped(6))
    assert make.shown[2:] == ["the ranks go on, after 151 s"]
    assert make.control.ended == make.killed == []


def test_workers_that_take_the_place_of_others_do_not_go_on(make):
    one = make()
    one.follow(stepped(5))
    after(make, one, 61)
    one.follow(stepped(5, attempt=3))
    assert len(make.shown) == 1


def test_ranks_that_stand_still_are_ended_after_the_timeout_once(make):
    one = make(0.0, 100.0)
    one.follow(stepped(5))
    after(make, one, 99)
    assert make.control.ended == []
    after(make, one, 2)
    after(make, one, 2)
    assert [attempt for attempt, _ in make.control.ended] == [2]
    assert make.control.ended[0][1].startswith("No progress for 101 s: step 5 was done. Rank 0 waits")
    assert make.killed == [1], "a stopped process ends in no other way"
    assert make.shown == []


def test_a_control_actor_that_does_not_answer_is_told_and_ended_after_the_timeout(make):
    one = make(10.0, 100.0)
    make.control.ranks = None
    one.follow(stepped(5))
    after(make, one, 11)
    assert (
        "The control actor, through which ranks are asked, does not answer (GetTimeoutError)."
        in make.shown[0]
    )
    assert make.control.ended == []
    after(make, one, 90)
    assert make.control.ended[0] == "control actor"


def test_nothing_is_said_without_a_limit(make):
    one = make(0.0)
    one.follow(stepped(5))
    after(make, one, 10_000)
    assert make.shown == []


def test_ranks_at_the_same_place_are_told_together():
    at = "train.py:9 in load"
    places = [*(waiting(rank) for rank in (0, 2, 3)), Place(rank=1, collective=None, at=at)]
    assert words_for(Ranks(places=places, silent=[]), {}) == (
        "Ranks 0, 2, 3 wait for the others in all_reduce (loop/boundary.py:55 in agree_on_control); "
        "rank 1 did not come: it is at train.py:9 in load"
    )


def test_without_a_collective_nobody_is_missed():
    places = [Place(rank=rank, collective=None, at="train.py:9 in load") for rank in (0, 1)]
    assert words_for(Ranks(places=places, silent=[]), {}) == "Ranks 0, 1 are at train.py:9 in load"


def test_a_node_that_cannot_be_looked_at_is_told():
    text = words_for(Ranks(places=[], silent=[process(1)]), {})
    assert text == "Rank 1 did not come: process 101 on host does not answer"
