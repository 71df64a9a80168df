"""How events reach callbacks, and what the control they return does."""

from __future__ import annotations

import logging
import pickle
import timeit

import numpy as np
import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler as TransformersHandler
from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback, ProgressCallback

from raytrainer.callbacks.handler import CONTROL_FLAGS, EVENTS, CallbackHandler
from raytrainer.errors import ConfigurationError


class EarlyStoppingCallback(TrainerCallback):
    """The example of the Trainer guide, verbatim."""

    def __init__(self, num_steps=10):
        self.num_steps = num_steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.num_steps:
            return {"should_training_stop": True}
        else:
            return {}


class Recorder(TrainerCallback):
    """Records every event with its keyword arguments."""

    def __init__(self, name="recorder", book=None):
        self.name = name
        self.book = [] if book is None else book

    def note(self, event, kwargs):
        self.book.append((self.name, event, kwargs))


def _recording(event):
    def method(self, args, state, control, **kwargs):
        self.note(event, kwargs)

    return method


for _event in EVENTS:
    setattr(Recorder, _event, _recording(_event))


class Answering(TrainerCallback):
    def __init__(self, answer):
        self.answer = answer

    def on_step_end(self, args, state, control, **kwargs):
        return self.answer


class Silent(TrainerCallback):
    pass


def handler_of(*callbacks):
    handler = CallbackHandler(
        [DefaultFlowCallback, *callbacks], "model", "tokenizer", "optimizer", "schedule"
    )
    handler.train_dataloader = "train"
    handler.eval_dataloader = "eval"
    return handler


def step_end(handler, control=None):
    args = TrainingArguments.__new__(TrainingArguments)
    args.logging_first_step, args.logging_strategy, args.eval_strategy, args.save_strategy = (
        False,
        "no",
        "no",
        "no",
    )
    return handler.on_step_end(args, TrainerState(global_step=10, max_steps=99), control or TrainerControl())


def extra_arguments(event):
    return {"on_evaluate": {"metrics": {}}, "on_predict": {"metrics": {}}, "on_log": {"logs": {}}}.get(
        event, {}
    )


def test_the_events_are_the_sixteen_of_transformers():
    assert {name for name in vars(TrainerCallback) if name.startswith("on_")} == set(EVENTS)
    assert len(EVENTS) == 16


def test_the_guides_callback_stops_at_its_step(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", save_strategy="no")
    handler = handler_of(EarlyStoppingCallback())
    control, stopped_at = TrainerControl(), None
    for step in range(1, 30):
        control = handler.on_step_begin(args, TrainerState(global_step=step - 1, max_steps=30), control)
        control = handler.on_step_end(args, TrainerState(global_step=step, max_steps=30), control)
        if control.should_training_stop:
            stopped_at = step
            break
    assert stopped_at == 10


def test_an_unknown_control_flag_is_refused_with_callback_event_key_and_the_valid_keys():
    with pytest.raises(ConfigurationError) as caught:
        step_end(handler_of(Answering({"should_stop": True})))
    for word in ("Answering", "on_step_end", "'should_stop'", *CONTROL_FLAGS):
        assert word in str(caught.value)


@pytest.mark.parametrize("answer", [True, False, 1, "stop", ["should_save"], object()])
def test_an_answer_of_another_type_is_a_type_error(answer):
    with pytest.raises(TypeError, match=r"Answering returned .* from on_step_end"):
        step_end(handler_of(Answering(answer)))


def test_a_string_as_flag_value_is_a_type_error():
    with pytest.raises(TypeError, match="'False'"):
        step_end(handler_of(Answering({"should_save": "False"})))


def test_flag_values_become_plain_bools():
    control = step_end(handler_of(Answering({"should_save": np.bool_(True)})))
    assert control.should_save is True


def test_a_dict_can_take_a_flag_back():
    assert not step_end(
        handler_of(Answering({"should_save": False})), TrainerControl(should_save=True)
    ).should_save


def test_an_empty_dict_changes_nothing():
    before = TrainerControl(should_log=True)
    assert step_end(handler_of(Answering({})), before) is before


def test_a_returned_control_replaces_the_one_that_later_callbacks_get():
    mine, seen = TrainerControl(should_evaluate=True), []

    class Looking(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(control)

    assert step_end(handler_of(Answering(mine), Looking())) is mine
    assert seen == [mine]
    assert seen[0] is mine


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_passes_the_keyword_arguments_of_transformers(event):
    ours, theirs = Recorder(), Recorder()
    for handler_class, recorder in ((CallbackHandler, ours), (TransformersHandler, theirs)):
        handler = handler_class([DefaultFlowCallback(), recorder], "model", "tok", "optim", "sched")
        handler.callbacks = [recorder]
        getattr(handler, event)(None, TrainerState(), TrainerControl(), **extra_arguments(event))
    assert ours.book == theirs.book
    assert len(ours.book) == 1


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_resets_the_flags_that_transformers_resets(event):
    left = []
    for handler_class in (CallbackHandler, TransformersHandler):
        handler = handler_class([DefaultFlowCallback()], None, None, None, None)
        handler.callbacks = []
        control = TrainerControl(**dict.fromkeys(CONTROL_FLAGS, True))
        left.append(getattr(handler, event)(None, TrainerState(), control, **extra_arguments(event)))
    assert left[0] == left[1]


def test_callbacks_are_called_in_the_order_of_the_list():
    book = []
    step_end(handler_of(Recorder("b", book), Recorder("a", book)))
    assert [name for name, _, _ in book] == ["b", "a"]


def test_classes_are_instantiated():
    handler = handler_of(Recorder)
    assert [type(callback) for callback in handler.callbacks] == [DefaultFlowCallback, Recorder]


def test_a_second_callback_of_a_class_warns_and_is_kept(caplog):
    handler = handler_of(Silent())
    with caplog.at_level(logging.WARNING):
        handler.add_callback(Silent)
    assert "adding a Silent" in caplog.text
    assert len(handler.callbacks) == 3


def test_a_list_without_the_default_flow_warns(caplog):
    CallbackHandler([Silent], None, None, None, None)
    assert "No DefaultFlowCallback" in caplog.text


def test_pop_by_class_returns_the_first_instance_also_of_a_subclass():
    class Deeper(Silent):
        pass

    deeper = Deeper()
    handler = handler_of(deeper, Silent())
    assert handler.pop_callback(Silent) is deeper
    assert handler.callback_list == "DefaultFlowCallback\nSilent"


def test_pop_of_what_is_not_there_returns_none():
    handler = handler_of()
    assert handler.pop_callback(Silent) is None
    assert handler.pop_callback(Silent()) is None


def test_pop_of_an_instance_takes_that_instance():
    first, second = Recorder("1"), Recorder("2")
    handler = handler_of(first, second)
    assert handler.pop_callback(second) is second
    assert handler.callbacks[1:] == [first]


def test_remove_by_class_is_silent_when_there_is_none():
    handler = handler_of()
    handler.remove_callback(PrinterCallback)
    assert len(handler.callbacks) == 1


def test_remove_of_a_foreign_instance_is_a_value_error():
    with pytest.raises(ValueError, match="not in list"):
        handler_of().remove_callback(Silent())


def test_an_object_without_a_method_is_skipped_for_that_event():
    class Duck:
        stopped = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.stopped += 1

    duck = Duck()
    handler = handler_of(duck)
    handler.on_push_begin(None, TrainerState(), TrainerControl())
    step_end(handler)
    assert duck.stopped == 1


def test_an_exception_names_the_callback_and_the_event():
    class Broken(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyError("metric")

    with pytest.raises(KeyError) as caught:
        step_end(handler_of(Broken()))
    (note,) = caught.value.__notes__
    assert "Broken in on_step_end" in note


def test_overrides_says_whether_a_callback_listens():
    handler = handler_of(Silent())
    assert handler.overrides("on_step_end")
    assert not handler.overrides("on_substep_end")


@pytest.mark.parametrize("change", ["add", "append", "insert", "assign"])
def test_a_callback_that_arrives_later_is_heard(change):
    handler, late = handler_of(), Recorder()
    assert not handler.overrides("on_substep_end")
    if change == "add":
        handler.add_callback(late)
    elif change == "append":
        handler.callbacks.append(late)
    elif change == "insert":
        handler.callbacks.insert(0, late)
    else:
        handler.callbacks = [late]
    handler.on_substep_end(None, TrainerState(), TrainerControl())
    assert len(late.book) == 1


def test_a_removed_callback_is_not_called_again():
    recorder = Recorder()
    handler = handler_of(recorder)
    step_end(handler)
    handler.remove_callback(recorder)
    step_end(handler)
    assert len(recorder.book) == 1


def test_a_method_replaced_on_an_instance_is_heard_from_train_begin_on():
    silent, heard = Silent(), []
    handler = handler_of(silent)
    assert not handler.overrides("on_substep_end")
    silent.on_substep_end = lambda *_args, **_kwargs: heard.append(1)
    handler.on_train_begin(None, TrainerState(), TrainerControl())
    handler.on_substep_end(None, TrainerState(), TrainerControl())
    assert heard == [1]


def test_a_callback_that_removes_itself_does_not_hide_the_next_one():
    class Once(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            handler.remove_callback(self)

    recorder = Recorder()
    handler = handler_of(Once(), recorder)
    step_end(handler)
    assert len(recorder.book) == 1


def test_later_callbacks_see_what_earlier_ones_added_to_the_logs():
    class Adding(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logs["memory"] = 3

    recorder = Recorder()
    handler_of(Adding(), recorder).on_log(None, TrainerState(), TrainerControl(), {"loss": 1.0})
    ((_, _, kwargs),) = recorder.book
    assert kwargs["logs"] == {"loss": 1.0, "memory": 3}


def test_a_handler_survives_pickling():
    handler = handler_of(EarlyStoppingCallback(num_steps=3))
    step_end(handler)
    assert step_end(pickle.loads(pickle.dumps(handler))).should_training_stop


def test_an_event_without_listeners_costs_less_than_half_of_transformers():
    # A ratio, so that a busy machine slows both; in absolute terms it is about 0.4 microseconds.
    callbacks, state, control = [DefaultFlowCallback(), Silent()], TrainerState(), TrainerControl()
    ours = CallbackHandler(callbacks, None, None, None, None)
    theirs = TransformersHandler(callbacks, None, None, None, None)
    cost = [
        min(timeit.repeat(lambda h=h: h.on_substep_end(None, state, control), number=2000, repeat=7))
        for h in (ours, theirs)
    ]
    assert cost[0] < cost[1] / 2


def test_a_library_that_replaces_call_event_gets_on_init_end_for_what_it_added(tmp_path):
    told = []

    class Told(TrainerCallback):
        def on_init_end(self, args, state, control, **kwargs):
            told.append(kwargs["model"])

    handler = CallbackHandler([DefaultFlowCallback], None, None, None, None)

    def call_event(event, *args, **kwargs):
        for callback in handler.callbacks:
            getattr(callback, event)(*args, model="the library's own", **kwargs)

    handler.call_event = call_event
    handler.add_callback(Told())
    handler.on_init_end(TrainingArguments(output_dir=str(tmp_path)), TrainerState(), TrainerControl())
    assert told == ["the library's own"]


@pytest.mark.parametrize("kind", [ProgressCallback, PrinterCallback])
def test_what_the_console_shows_is_not_shown_again_by_a_library_that_calls_all_callbacks(kind, capfd):
    handler = CallbackHandler([DefaultFlowCallback, kind], None, None, None, None)
    state = TrainerState(max_steps=2, is_world_process_zero=True)
    for event, more in (("on_train_begin", {}), ("on_step_end", {}), ("on_log", {"logs": {"loss": 1.0}})):
        getattr(handler.callbacks[1], event)(None, state, TrainerControl(), **more)
    assert "".join(capfd.readouterr()) == ""
