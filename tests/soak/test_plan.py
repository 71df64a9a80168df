"""What a soak tries follows from its seed, and leaves nothing out."""

from __future__ import annotations

from itertools import islice

from tests.soak.plan import BACKENDS, IN_A_SAVE_BESIDE, KINDS, LOADERS, NUM_STEPS, RAYS, Round, rounds


def test_a_seed_repeats_its_faults() -> None:
    assert list(islice(rounds(7), 20)) == list(islice(rounds(7), 20))
    assert list(islice(rounds(7), 20)) != list(islice(rounds(8), 20))


def test_every_kind_of_fault_comes_in_runs_of_every_kind() -> None:
    drawn = list(islice(rounds(0), 200))
    assert {fault.kind for one in drawn for fault in one.faults} == set(KINDS)
    assert {(one.setup.backend, one.setup.num_loaders) for one in drawn} == {
        (backend, number) for backend in BACKENDS for number in LOADERS
    }
    assert {one.ray for one in drawn} == set(RAYS)


def test_all_runs_save_beside_training_if_that_is_asked_for() -> None:
    beside = list(islice(rounds(3, saves_beside=True), 50))
    assert all(one.setup.saves_beside for one in beside)
    assert {one.setup.saves_beside for one in islice(rounds(3), 50)} == {False, True}
    kinds = {fault.kind for one in beside for fault in one.faults}
    assert kinds >= set(IN_A_SAVE_BESIDE)


def test_faults_of_a_round_come_at_different_steps_of_the_run() -> None:
    for one in islice(rounds(1), 200):
        steps = [fault.step for fault in one.faults]
        assert steps == sorted(set(steps))
        assert all(1 <= step <= NUM_STEPS for step in steps)
        assert one.setup.num_loaders or all(fault.kind != "kill loader" for fault in one.faults)


def test_a_round_travels_as_text() -> None:
    asked = next(rounds(3))
    assert Round.from_json(asked.to_json()) == asked
