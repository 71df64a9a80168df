"""A Hub token is in no pickle that driver and workers send each other; rank 0 has it when it uploads."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import raytrainer
from raytrainer.driver.changes_sent import ChangesSent
from raytrainer.libraries.made_arguments import as_made, record_constructions
from raytrainer.runtimes import ray_calls
from raytrainer.wire.hub_token import learn_token, token_for_uploads
from raytrainer.wire.pickling import Shipped
from raytrainer.wire.spec import receive, ship
from tests.hub.server import TOKEN
from tests.libraries.own_loop import make_arguments
from tests.parity.twins import make_trainer


class Refers(TrainerCallback):
    """Holds the arguments in several ways."""

    def __init__(self, args: Any) -> None:
        self.args, self.more = args, {"of": (args,)}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    learn_token(None)
    yield
    learn_token(None)


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    trainer = make_trainer(raytrainer, tmp_path, push_to_hub=True, hub_model_id="me/model", hub_token=TOKEN)
    trainer.add_callback(Refers(trainer.args))
    return trainer


def bytes_of(shipped: Shipped) -> bytes:
    arrays = [*shipped.storages, *(array for array, _ in shipped.buffers)]
    return b"".join([shipped.pickle, *(array.tobytes() for array in arrays)])


def test_a_trainer_travels_without_its_token_and_keeps_it(trainer: Any) -> None:
    sent = bytes_of(ship(trainer))
    assert b"hub_token" in sent, "the search sees what is in it"
    assert TOKEN.encode() not in sent
    assert trainer.args.hub_token == TOKEN


def test_a_process_that_has_not_learned_the_token_reads_none(trainer: Any) -> None:
    there = receive(ship(trainer))
    assert there.args.hub_token is None
    assert there.args.push_to_hub


def test_rank_0_reads_the_token_that_it_has_learned_wherever_the_arguments_are(trainer: Any) -> None:
    shipped = ship(trainer)
    learn_token(token_for_uploads(trainer.args))
    there = receive(shipped)
    refers = there.callback_handler.callbacks[-1]
    assert there.args.hub_token == TOKEN
    assert refers.args is there.args
    assert refers.more["of"][0] is there.args


def test_a_trainer_that_uploads_nothing_gives_rank_0_no_token(trainer: Any) -> None:
    trainer.args.push_to_hub = False
    assert token_for_uploads(trainer.args) is None
    assert token_for_uploads(None) is None


@pytest.mark.parametrize("changed", ["hub_token", "push_to_hub"])
def test_a_change_between_two_calls_travels_without_the_token(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    sent: list[Shipped] = []
    monkeypatch.setattr(ray_calls, "put", sent.append)
    if changed == "push_to_hub":
        trainer.args.push_to_hub = False
    changes = ChangesSent(trainer)
    new = TOKEN[::-1] if changed == "hub_token" else True
    setattr(trainer.args, changed, new)
    assert changes.find_changes(trainer, num_workers=1, builds_model=False) == []
    (shipped,) = sent
    assert TOKEN.encode() not in bytes_of(shipped)
    assert TOKEN[::-1].encode() not in bytes_of(shipped)
    learn_token(trainer.args.hub_token)
    parts = receive(shipped)
    assert parts["args", "hub_token"] == trainer.args.hub_token
    assert parts["args", changed] == new


def test_arguments_that_a_worker_makes_again_travel_without_the_token(tmp_path: Path) -> None:
    record_constructions()
    args = make_arguments(tmp_path, push_to_hub=True, hub_token=TOKEN)
    args.hub_model_id = "me/model"
    for made in (as_made(args), args):
        assert TOKEN.encode() not in bytes_of(ship(made))
    assert as_made(args).make().hub_token == TOKEN, "in the process that knows it"
    there = pickle.loads(pickle.dumps(as_made(args)))
    assert there.make().hub_token is None
    learn_token(TOKEN)
    there = receive(ship(as_made(args))).make()
    assert (there.hub_token, there.hub_model_id) == (TOKEN, "me/model")
