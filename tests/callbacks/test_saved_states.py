"""Callback states are saved in a checkpoint and restored from it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from raytrainer.callbacks.handler import CallbackHandler
from raytrainer.callbacks.saved_states import export_states, restore_states
from raytrainer.errors import CheckpointError
from tests.parity.twins import LIBRARIES, make_trainer


class Counter(TrainerCallback, ExportableState):
    def __init__(self, step=1):
        self.step = step
        self.count = 0
        self.history = []

    def state(self):
        return {"args": {"step": self.step}, "attributes": {"count": self.count, "history": self.history}}


class Silent(TrainerCallback):
    pass


def early_stopping(patience, counter):
    callback = EarlyStoppingCallback(early_stopping_patience=patience)
    callback.early_stopping_patience_counter = counter
    return callback


def restore(states, callbacks, control=None):
    handler = CallbackHandler([], None, None, None, None)
    handler.callbacks = callbacks
    return restore_states(handler, control or TrainerControl(), states)


def through_the_file(callbacks, control, tmp_path):
    state = TrainerState()
    state.stateful_callbacks = export_states(callbacks, control)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    return TrainerState.load_from_json(str(tmp_path / "trainer_state.json")).stateful_callbacks


def test_the_export_has_the_format_of_transformers():
    callbacks = [early_stopping(3, 1), Silent(), Counter(2), early_stopping(5, 2)]
    theirs = TrainerState(stateful_callbacks=[*callbacks[:1], *callbacks[2:], TrainerControl()])
    assert export_states(callbacks, TrainerControl()) == theirs.stateful_callbacks


def test_several_instances_of_one_class_come_back_in_order(tmp_path):
    saved = through_the_file([early_stopping(3, 1), early_stopping(5, 2)], TrainerControl(), tmp_path)
    fresh = [early_stopping(3, 0), Silent(), early_stopping(5, 0)]
    restore(saved, fresh)
    assert [fresh[0].early_stopping_patience_counter, fresh[2].early_stopping_patience_counter] == [1, 2]


def test_a_later_export_of_several_instances_holds_only_the_newest_states():
    callbacks = [early_stopping(3, 0), early_stopping(5, 0)]
    export_states(callbacks, TrainerControl())
    callbacks[0].early_stopping_patience_counter = 2
    states = export_states(callbacks, TrainerControl())["EarlyStoppingCallback"]
    assert [state["attributes"]["early_stopping_patience_counter"] for state in states] == [2, 0]


def test_a_restored_callback_keeps_identity_place_and_what_it_does_not_export():
    counter = Counter(step=1)
    counter.opened = "a handle that on_init_end made"
    callbacks = [counter, Silent()]
    source = Counter(step=7)
    source.count = 4
    restore(export_states([source], TrainerControl()), callbacks)
    assert callbacks[0] is counter
    assert (counter.step, counter.count, counter.opened) == (7, 4, "a handle that on_init_end made")


def test_an_export_is_a_snapshot():
    counter = Counter()
    states = export_states([counter], TrainerControl())
    counter.history.append(1)
    assert states["Counter"]["attributes"]["history"] == []


def test_saved_states_without_a_callback_are_named_in_one_warning(caplog):
    saved = export_states([Counter(), early_stopping(1, 1)], TrainerControl())
    caplog.clear()
    restore(saved, [Silent()])
    (record,) = (record for record in caplog.records if record.name == "raytrainer.callbacks.saved_states")
    assert "Counter, EarlyStoppingCallback" in record.getMessage()


def test_a_callback_without_saved_state_stays_as_it_is():
    counter = Counter()
    counter.count = 3
    restore({}, [counter])
    assert counter.count == 3


def test_the_control_comes_back():
    saved = export_states([], TrainerControl(should_training_stop=True, should_save=True))
    control = TrainerControl()
    assert restore(saved, [], control) is control
    assert control == TrainerControl(should_training_stop=True, should_save=True)


def test_a_checkpoint_without_states_leaves_the_control_alone():
    control = TrainerControl(should_log=True)
    assert restore(None, [], control) == TrainerControl(should_log=True)


def test_a_state_that_is_not_json_names_its_callback():
    counter = Counter()
    counter.count = np.float32(1)
    with pytest.raises(TypeError, match=r"callback Counter .*\.item"):
        export_states([counter], TrainerControl())


def test_a_state_that_does_not_fit_the_constructor_names_the_callback():
    with pytest.raises(CheckpointError, match=r"callback Counter .* takes \['stride'\]"):
        restore({"Counter": {"args": {"stride": 2}, "attributes": {}}}, [Counter()])


def test_a_state_is_readable_json_beside_the_rest_of_the_trainer_state(tmp_path):
    through_the_file([Counter(2)], TrainerControl(), tmp_path)
    states = json.loads((tmp_path / "trainer_state.json").read_text())["stateful_callbacks"]
    assert states["Counter"] == {"args": {"step": 2}, "attributes": {"count": 0, "history": []}}


def test_the_state_of_a_trainer_has_the_control_as_in_transformers(tmp_path):
    states = {}
    for name, library in LIBRARIES.items():
        trainer = make_trainer(library, tmp_path / name, max_steps=2, save_strategy="steps", save_steps=2)
        before = trainer.state.stateful_callbacks
        trainer.train()
        saved = json.loads((tmp_path / name / "checkpoint-2" / "trainer_state.json").read_text())
        states[name] = [before, trainer.state.stateful_callbacks, saved["stateful_callbacks"]]
    assert states["ours"] == states["theirs"]
    assert states["ours"][1]["TrainerControl"]["args"]["should_training_stop"]
