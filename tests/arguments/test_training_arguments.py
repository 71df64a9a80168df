"""Arguments on a driver: constructed, printed, copied and read back without a device."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType

import raytrainer
from raytrainer import ConfigurationError, TrainingArguments

WISH = {"output_dir": "out", "bf16": True, "use_gpu": True, "num_workers": 4}


def run_python(code: str) -> bytes:
    environment = {**os.environ, "PYTHONPATH": str(Path(raytrainer.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, timeout=50, env=environment
    )
    return done.stdout


@dataclasses.dataclass
class TaskArguments(TrainingArguments):
    task_name: str = dataclasses.field(default="sst2", metadata={"help": "Which task."})


def test_gpu_arguments_are_constructed_on_a_driver_without_a_gpu():
    args = TrainingArguments(**WISH)
    assert (args.bf16, args.use_gpu, args.num_workers) == (True, True, 4)
    assert args.mixed_precision == "bf16"


@pytest.mark.parametrize(
    "copied",
    [
        lambda args: pickle.loads(pickle.dumps(args)),
        lambda args: cloudpickle.loads(cloudpickle.dumps(args)),
        copy.deepcopy,
        copy.copy,
        dataclasses.replace,
        lambda args: type(args)(**args.to_dict()),
        lambda args: type(args)(**json.loads(args.to_json_string())),
    ],
    ids=["pickle", "cloudpickle", "deepcopy", "copy", "replace", "to_dict", "json"],
)
@pytest.mark.parametrize(
    "options",
    [
        WISH,
        {"tf32": True, "fp16": True, "report_to": "tensorboard"},
        {"use_cpu": True, "eval_strategy": "steps", "load_best_model_at_end": True, "debug": ""},
        {"gradient_checkpointing": True, "label_names": ["labels"], "resources_per_worker": '{"CPU": 2}'},
    ],
    ids=["gpu", "precision", "best", "lists"],
)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing`")
def test_copies_are_equal(copied, options):
    args = TrainingArguments(**options)
    assert copied(args) == args


def test_str_names_every_field_and_hides_tokens():
    text = str(TrainingArguments(**WISH))
    assert all(f"{field.name}=" in text for field in dataclasses.fields(TrainingArguments))
    assert "hub_token=<HUB_TOKEN>" in text
    assert repr(TrainingArguments(**WISH)) == text


def test_sanitized_dict_holds_plain_values():
    values = TrainingArguments(**WISH).to_sanitized_dict()
    assert {type(value) for value in values.values()} <= {bool, int, float, str}
    assert values["train_batch_size"] == 8


@pytest.mark.parametrize(
    "options", [{}, WISH, {"use_cpu": True}, {"tf32": True}, {"fp16": True}, {"dataloader_num_workers": 2}]
)
def test_a_driver_with_gpus_is_not_touched(monkeypatch, options):
    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError("a device was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("_lazy_init", "set_device", "is_bf16_supported", "get_device_properties", "device_count"):
        monkeypatch.setattr(torch.cuda, name, touched)
    args = TrainingArguments(**options)
    str(args), args.to_dict(), args.device, args.n_gpu, args.world_size, args.parallel_mode, args.should_save
    assert args._setup_devices == torch.device("cpu")
    assert args.distributed_state.device == torch.device("cpu")


@pytest.mark.slow
def test_no_accelerate_state_is_made():
    # in a process of its own: other tests may have made one
    code = (
        "from accelerate.state import AcceleratorState, PartialState\n"
        "from raytrainer import TrainingArguments\n"
        "args = TrainingArguments(bf16=True, num_workers=4)\n"
        "args.device, args.world_size, args.process_index, args.distributed_state\n"
        "str(args), args.to_sanitized_dict()\n"
        "import torch\n"
        "assert PartialState._shared_state == {} and AcceleratorState._shared_state == {}\n"
        "assert not torch.distributed.is_initialized() and not torch.cuda.is_initialized()\n"
    )
    run_python(code)


def test_an_accelerate_state_that_exists_is_left_alone():
    before = dict(PartialState._shared_state), dict(AcceleratorState._shared_state)
    TrainingArguments(**WISH)
    assert (dict(PartialState._shared_state), dict(AcceleratorState._shared_state)) == before


def test_a_driver_counts_the_requested_workers():
    assert TrainingArguments(num_workers=4).world_size == 4
    assert TrainingArguments().world_size == 1
    assert TrainingArguments(num_workers=0).world_size == 1


def test_a_driver_may_save_and_log():
    args = TrainingArguments(num_workers=4)
    assert args.should_save
    assert args.should_log
    assert args.process_index == args.local_process_index == 0


def test_a_launched_rank_is_known_before_anything_is_made(monkeypatch):
    for name, value in {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }.items():
        monkeypatch.setenv(name, value)
    args = TrainingArguments()
    assert (args.process_index, args.local_process_index, args.world_size) == (3, 1, 4)
    assert not args.should_save


def test_derived_values_are_those_of_transformers():
    options = {
        "output_dir": "~/run",
        "eval_strategy": "steps",
        "logging_steps": 20,
        "save_steps": 40,
        "load_best_model_at_end": True,
        "report_to": "none",
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": '{"num_cycles": 1}',
        "include_num_input_tokens_seen": True,
        "use_cpu": True,
    }
    ours = TrainingArguments(**options).to_dict()
    theirs = transformers.TrainingArguments(**options).to_dict()
    theirs["logging_nan_inf_filter"] = False
    # transformers removes this key from the config when it creates its state
    ours["accelerator_config"].pop("use_configured_state")
    theirs["accelerator_config"].pop("use_configured_state", None)
    assert {name: ours[name] for name in theirs} == theirs


def test_enums_are_converted():
    args = TrainingArguments(eval_strategy="epoch", save_strategy="epoch", lr_scheduler_type="cosine")
    assert args.eval_strategy is IntervalStrategy.EPOCH
    assert args.save_strategy is SaveStrategy.EPOCH
    assert args.lr_scheduler_type is SchedulerType.COSINE


def test_output_dir_has_a_default_and_a_home():
    assert TrainingArguments().output_dir == "trainer_output"
    assert not TrainingArguments(output_dir="~/x").output_dir.startswith("~")


def test_defaults_are_class_attributes():
    assert TrainingArguments.learning_rate == 5e-5
    assert TrainingArguments.max_failures == 3
    assert TrainingArguments.num_workers is None


def test_output_dir_is_the_first_positional_argument():
    assert TrainingArguments("here").output_dir == "here"


def test_wishes_about_hardware_survive_construction():
    args = TrainingArguments(tf32=True)
    assert (args.tf32, args.use_cpu, args.dataloader_pin_memory) == (True, False, True)


def test_use_cpu_switches_pinned_memory_off():
    assert not TrainingArguments(use_cpu=True).dataloader_pin_memory


def test_nan_is_reported_unless_the_filter_is_asked_for():
    assert TrainingArguments().logging_nan_inf_filter is False
    assert TrainingArguments(logging_nan_inf_filter=True).logging_nan_inf_filter is True


def test_subclass_dataclass_takes_its_own_fields_and_old_names():
    with pytest.warns(FutureWarning, match="no_cuda"):
        args = TaskArguments(output_dir="x", task_name="mnli", no_cuda=True)
    assert (args.task_name, args.use_cpu) == ("mnli", True)
    assert pickle.loads(pickle.dumps(args)) == args


def test_subclass_with_an_init_of_its_own_gets_todays_names():
    class Preset(TrainingArguments):
        def __init__(self, **kwargs: object) -> None:
            super().__init__(learning_rate=1e-3, **kwargs)

    with pytest.warns(FutureWarning, match="evaluation_strategy"):
        args = Preset(evaluation_strategy="epoch")
    assert (args.learning_rate, args.eval_strategy) == (1e-3, "epoch")


@pytest.mark.slow
def test_class_made_in_main_crosses_a_process_boundary():
    code = (
        "import cloudpickle, dataclasses, pickle, sys\n"
        "from raytrainer import TrainingArguments\n"
        "@dataclasses.dataclass\n"
        "class Mine(TrainingArguments):\n"
        "    mine: int = 3\n"
        "sys.stdout.buffer.write(cloudpickle.dumps(Mine(bf16=True, mine=5)))\n"
    )
    args = pickle.loads(run_python(code))
    assert (args.mine, args.bf16) == (5, True)
    assert dataclasses.replace(args, mine=6).mine == 6


def test_fluent_setters_work():
    args = TrainingArguments().set_training(learning_rate=1e-4, batch_size=4).set_evaluate("steps", steps=10)
    args.check()
    assert (args.learning_rate, args.eval_steps) == (1e-4, 10)


@pytest.mark.parametrize(
    "name",
    ["training", "evaluate", "testing", "save", "logging", "optimizer", "lr_scheduler", "dataloader"],
)
def test_every_fluent_setter_leaves_sound_arguments(name):
    args = TrainingArguments()
    getattr(args, f"set_{name}")()
    args.check()


def test_check_finds_a_contradiction_made_after_construction():
    args = TrainingArguments()
    args.load_best_model_at_end = True
    with pytest.raises(ConfigurationError, match="load_best_model_at_end"):
        args.check()


def test_get_warmup_steps_reads_a_ratio():
    assert TrainingArguments(warmup_steps=0.1).get_warmup_steps(200) == 20


def test_main_process_first_is_nothing_before_resolve():
    with TrainingArguments(num_workers=4).main_process_first():
        pass


def test_the_main_process_is_at_info_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    monkeypatch.setattr(transformers.utils.logging, "get_verbosity", lambda: 30)
    assert TrainingArguments().get_process_log_level() == 20
    assert TrainingArguments(log_level="error").get_process_log_level() == 40
    monkeypatch.setattr(transformers.utils.logging, "get_verbosity", lambda: 10)
    assert TrainingArguments().get_process_log_level() == 10, "a level that the user chose is changed"


def test_class_in_place_of_an_accelerator_config_raises_as_in_transformers():
    from transformers.trainer_pt_utils import AcceleratorConfig

    with pytest.raises(NotImplementedError):
        TrainingArguments(accelerator_config=AcceleratorConfig)


@pytest.mark.parametrize("kind", ["dict", "path", "instance"])
def test_accelerator_config_takes_a_dict_a_path_and_an_instance(tmp_path, kind):
    from transformers.trainer_pt_utils import AcceleratorConfig

    path = tmp_path / "accelerator.json"
    path.write_text('{"non_blocking": true}')
    given = {
        "dict": {"non_blocking": True},
        "path": str(path),
        "instance": AcceleratorConfig(non_blocking=True),
    }
    assert TrainingArguments(accelerator_config=given[kind]).accelerator_config.non_blocking


def test_a_missing_file_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match=r"nowhere\.json"):
        TrainingArguments(accelerator_config="nowhere.json")


@pytest.mark.parametrize("nobody", [None, [None], "none", []])
def test_nobody_is_reported_to(nobody):
    assert TrainingArguments(report_to=nobody).report_to == []


def test_report_to_that_was_set_to_none_later_is_nobody():
    args = TrainingArguments()
    args.report_to = None
    args.check()
    assert args.report_to == []
