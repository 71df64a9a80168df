"""``raytrainer launch`` reads accelerate's flags; nothing is started here."""

from __future__ import annotations

import json
import sys

import pytest

from raytrainer import TrainingArguments
from raytrainer.cli import launch as module
from raytrainer.cli.main import main
from raytrainer.dialects.accelerate import LAUNCH_VARIABLE
from raytrainer.dialects.fsdp import ShardingOptions


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The command and the fields that would be launched."""
    seen = {}

    def call(command, env):
        seen.update(command=command, fields=json.loads(env[LAUNCH_VARIABLE]))
        return 0

    monkeypatch.setattr(module.subprocess, "call", call)
    monkeypatch.setattr(
        "accelerate.commands.config.config_args.default_config_file", str(tmp_path / "default.yaml")
    )
    return seen


def test_the_guides_flags_become_arguments(started, monkeypatch, tmp_path):
    flags = [
        "--num_processes=2",
        "--use_fsdp",
        "--mixed_precision=bf16",
        "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
        "--fsdp_transformer_layer_cls_to_wrap=BertLayer",
        "--fsdp_sharding_strategy=1",
        "--fsdp_state_dict_type=FULL_STATE_DICT",
    ]
    assert main(["launch", *flags, "run_glue.py", "--do_train", "--learning_rate", "5e-5"]) == 0
    assert started["command"] == [sys.executable, "run_glue.py", "--do_train", "--learning_rate", "5e-5"]
    monkeypatch.setenv(LAUNCH_VARIABLE, json.dumps(started["fields"]))
    args = TrainingArguments(output_dir=str(tmp_path))
    assert (args.num_workers, args.bf16) == (2, True)
    assert args.sharding == ShardingOptions(layer_classes=("BertLayer",))


def test_deepspeed_flags_become_its_config(started):
    flags = ["--use_deepspeed", "--zero_stage=3", "--offload_optimizer_device=cpu", "--gradient_clipping=0.5"]
    assert main(["launch", *flags, "--num_processes=2", "script.py"]) == 0
    assert started["fields"] == {
        "num_workers": 2,
        "max_grad_norm": 0.5,
        "deepspeed": {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}},
    }


def test_without_flags_nothing_is_asked(started):
    assert main(["launch", "script.py"]) == 0
    assert started["fields"] == {}


def test_the_file_that_accelerate_config_left_counts_and_flags_win(started, tmp_path):
    (tmp_path / "default.yaml").write_text(
        "distributed_type: MULTI_CPU\nnum_processes: 4\nmixed_precision: bf16\n"
    )
    assert main(["launch", "--num_processes", "2", "-m", "package.module", "x"]) == 0
    assert started["command"] == [sys.executable, "-m", "package.module", "x"]
    assert started["fields"] == {"num_workers": 2, "use_cpu": True, "bf16": True}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--zero_stage", "3"], "needs --use_deepspeed"),
        (["--use_deepspeed", "--deepspeed_hostfile", "hosts"], "Ray knows its nodes"),
        (["--use_deepspeed", "--offload_param_nvme_path", "/disk"], "NVMe"),
        (["--machine_rank", "1"], "ray start"),
        (["--main_process_port", "29500"], "through Ray"),
        (["--gpu_ids", "0,1"], "Ray assigns GPUs"),
        (["--megatron_lm_tp_degree", "2"], "Megatron-LM"),
        (["--gradient_accumulation_steps", "2"], "after the script's name"),
        (["--fsdp_sharding_strategy", "1"], "needs --use_fsdp"),
        (["--config_file", "/nowhere.yaml"], "cannot be read"),
        (["--num_cpu_threads_per_process", "4"], "resources_per_worker"),
    ],
)
def test_flags_that_make_no_sense_are_refused_before_the_script_starts(started, capsys, flags, words):
    assert main(["launch", *flags, "script.py"]) == 2
    assert words in capsys.readouterr().err
    assert not started


def test_help_and_wrong_commands(capsys):
    assert main(["--help"]) == 0
    assert main(["lunch"]) == 2
    assert "'lunch' is not a command" in capsys.readouterr().err
