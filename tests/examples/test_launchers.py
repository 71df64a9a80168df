"""The guide's command lines: ``examples/run_glue.py`` with Ray's workers, and under the real ``accelerate launch``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FSDP = [
    "--num_processes=2",
    "--use_fsdp",
    "--mixed_precision=bf16",
    "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
    "--fsdp_transformer_layer_cls_to_wrap=BertLayer",
    "--fsdp_sharding_strategy=1",
    "--fsdp_state_dict_type=FULL_STATE_DICT",
]
SCRIPT = [
    str(ROOT / "examples" / "run_glue.py"),
    "--model_name_or_path",
    "google-bert/bert-base-cased",
    "--task_name",
    "mrpc",
    "--do_train",
    "--do_eval",
    "--max_seq_length",
    "16",
    "--per_device_train_batch_size",
    "4",
    "--learning_rate",
    "5e-5",
    "--num_train_epochs",
    "1",
    "--overwrite_output_dir",
    "--max_train_samples",
    "16",
    "--max_eval_samples",
    "16",
]


def run(command: list[str], output_dir: Path) -> str:
    done = subprocess.run(
        [*command, *SCRIPT, "--output_dir", str(output_dir)],
        check=False,
        capture_output=True,
        text=True,
        timeout=170,
        cwd=ROOT,
        # No file that `accelerate config` may have left on this machine.
        env={
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(output_dir / "hf"),
        },
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert re.search(r"backend +│ fsdp, full shard +│ ✓ FSDP2 \(gloo\), 7 units, 2 shard", output), output[
        -4000:
    ]
    assert re.search(r"precision +│ bf16 +│ ✓ bfloat16", output)
    assert re.search(r"'eval_accuracy': 0\.\d+", output)
    return output


@pytest.mark.ray
@pytest.mark.timeout(200)
def test_raytrainer_launch_runs_the_guides_command_on_ray(tmp_path: Path) -> None:
    output = run([str(BIN / "raytrainer"), "launch", *FSDP], tmp_path / "out")
    assert "training the packaged MiniLM instead" in output, "the script says that the hub was not there"
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() or (
        tmp_path / "out" / "model.safetensors"
    ).exists()


@pytest.mark.distributed
@pytest.mark.timeout(200)
def test_accelerate_launch_runs_the_same_script_in_its_process_group(tmp_path: Path) -> None:
    run([str(BIN / "accelerate"), "launch", "--num_machines=1", *FSDP], tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
