"""What a process imports that only needs a trainer, and how models of peft are known nevertheless."""

from __future__ import annotations

import subprocess
import sys

import peft
import torch
from transformers import trainer_utils

from raytrainer.peft_on_use import _Module
from tests.parity.twins import make_model

NOT_NEEDED = (
    "peft",
    "bitsandbytes",
    "torch._dynamo",
    "torch._inductor",
    "deepspeed",
    "transformers.modeling_utils",
)


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_process_without_a_model_imports_no_model_code() -> None:
    modules = "raytrainer.trainer, raytrainer.tune.trial, raytrainer.worker.session"
    found = run(f"import sys, {modules}; print(*(name for name in {NOT_NEEDED} if name in sys.modules))")
    assert found == ""


def test_models_of_peft_are_known_to_transformers_once_peft_is_imported() -> None:
    script = """
import raytrainer.trainer
import transformers.trainer_utils as utils
from torch import nn
assert utils.__loader__.get_source(utils.__name__)
assert utils.__spec__.loader is utils.__loader__
assert utils.unwrap_peft_model(nn.Linear(2, 2)).in_features == 2
import peft
inner = nn.Sequential(nn.Linear(2, 2))
model = peft.get_peft_model(inner, peft.LoraConfig(target_modules=["0"]))
assert utils.PeftModel is not peft.PeftModel
print(utils._is_peft_model(model), utils._is_peft_model(inner), utils.unwrap_peft_model(model) is inner)
"""
    assert run(script) == "True False True"


def test_a_stand_in_answers_for_the_class_of_its_name() -> None:
    stand_in = _Module("peft").PeftModel
    model = peft.get_peft_model(make_model(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert isinstance(model, stand_in)
    assert not isinstance(torch.nn.Linear(1, 1), stand_in)
    assert issubclass(peft.PeftModelForCausalLM, stand_in)
    assert not issubclass(torch.nn.Linear, stand_in)
    assert stand_in.from_pretrained == peft.PeftModel.from_pretrained
    assert trainer_utils._is_peft_model(model)
