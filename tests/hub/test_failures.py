"""A failed upload is a warning that says what to do; the run and its checkpoints are unaffected."""

from __future__ import annotations

import socket
import traceback

import pytest
from huggingface_hub import constants
from transformers import TrainerCallback

from raytrainer import HubError
from raytrainer.checkpoint.scan import newest_checkpoint

WRONG = "hf_" + "Wrong9876543210" * 2


def has_whole_run(trainer, tmp_path):
    newest = newest_checkpoint(tmp_path / "my-model", report=pytest.fail)
    return trainer.state.global_step == 4 and newest is not None and newest.name == "checkpoint-4"


def test_a_token_that_is_refused_ends_nothing(hub, make, tmp_path, capsys):
    trainer = make(hub_token=WRONG)
    trainer.train()
    assert has_whole_run(trainer, tmp_path)
    err = capsys.readouterr().err
    assert "could not be opened" in err
    assert "HF_TOKEN" in err
    assert f"It is in {tmp_path / 'my-model' / 'checkpoint-4'}." in err


def test_the_same_failure_is_told_once_and_at_the_end(hub, make, capsys):
    hub.failures["/commit/"] = 403
    make(save_steps=1, hub_always_push=True).train()
    err = capsys.readouterr().err
    assert err.count("was not uploaded") == 1
    assert err.count("The Hub does not have checkpoint-4") == 1


@pytest.mark.parametrize("status", [403, 500])
def test_a_refused_commit_ends_nothing(hub, make, tmp_path, capsys, status):
    hub.failures["/commit/"] = status
    trainer = make()
    trainer.train()
    assert has_whole_run(trainer, tmp_path)
    assert hub.repo("my-model").commits == []
    assert str(status) in capsys.readouterr().err


def test_a_hub_that_is_not_there_ends_nothing(hub, make, tmp_path, capsys, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        trainer = make()
        trainer.train()
    assert has_whole_run(trainer, tmp_path)
    assert "Check the network, HF_ENDPOINT" in capsys.readouterr().err


def test_no_network_by_choice_ends_nothing(hub, make, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    trainer = make()
    trainer.train()
    assert has_whole_run(trainer, tmp_path)
    assert "Unset HF_HUB_OFFLINE" in capsys.readouterr().err


class Mends(TrainerCallback):
    """Makes the server work again at an event."""

    def __init__(self, hub, event):
        setattr(self, event, lambda *_, **__: hub.failures.clear())


def test_the_next_save_tries_again(hub, make):
    hub.failures["/repos/create"] = 500
    make(callbacks=[Mends(hub, "on_save")], hub_always_push=True).train()
    assert [commit.message[-1] for commit in hub.repo("my-model").commits][-1:] == ["4"]


def test_the_newest_checkpoint_is_tried_once_more_at_the_end(hub, make, capsys):
    hub.failures["/commit/"] = 500
    trainer = make()

    class MendsWhenTold(TrainerCallback):
        def on_push_begin(self, args, state, control, **kwargs):
            self.pushes = getattr(self, "pushes", 0) + 1
            if self.pushes == 3:  # two saves, and the retry at the end
                hub.failures.clear()

    trainer.add_callback(MendsWhenTold())
    trainer.train()
    assert [commit.message for commit in hub.repo("my-model").commits] == ["Training in progress, step 4"]
    assert "The Hub does not have" not in capsys.readouterr().err


def test_push_to_hub_raises_what_goes_wrong(hub, make):
    hub.failures["/commit/"] = 500
    with pytest.raises(HubError, match=r"me/my-model .*500.* Upload it again later"):
        make().push_to_hub()


def test_save_model_saves_whatever_the_hub_says(hub, make, tmp_path, capsys, caplog):
    hub.failures["/repos/create"] = 500
    trainer = make()
    trainer.save_model()
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
    assert "but not uploaded" in capsys.readouterr().err + caplog.text


@pytest.mark.parametrize("place", ["/repos/create", "/commit/", "/preupload/", "/tree/", "lfs/objects"])
def test_no_error_shows_a_token_that_the_hub_repeats(hub, make, place):
    hub.failures[place] = 400
    trainer = make(push_to_hub=False, hub_token=hub.token)
    with pytest.raises(HubError) as caught:
        trainer.push_to_hub()
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "you sent Bearer <token>" in text
    assert hub.token not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
