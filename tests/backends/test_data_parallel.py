"""How DDP is set up."""

from __future__ import annotations

import pytest
import transformers
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from peft import LoraConfig, get_peft_model
from torch import nn

from raytrainer.backends.data_parallel import DataParallelBackend
from tests.parity.twins import make_model


def recomputing() -> transformers.PreTrainedModel:
    model = make_model()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    return model


def adapted(model: transformers.PreTrainedModel) -> nn.Module:
    return get_peft_model(model, LoraConfig(target_modules=["q_proj"]))


@pytest.mark.parametrize(
    ("make", "asked", "looks"),
    [
        (make_model, None, True),
        (recomputing, None, False),
        (lambda: adapted(make_model()), None, True),
        (lambda: adapted(recomputing()), None, False),
        (lambda: nn.Sequential(recomputing()), None, False),
        (lambda: adapted(recomputing()), True, True),
        (lambda: nn.Linear(1, 1), None, True),
        (lambda: nn.Linear(1, 1), False, False),
    ],
)
def test_unused_parameters_are_looked_for_unless_any_part_of_the_model_recomputes_activations(
    make, asked, looks
):
    handler = DistributedDataParallelKwargs()
    backend = DataParallelBackend(Accelerator(cpu=True, kwargs_handlers=[handler]), finds_unused=asked)
    backend.wrap(make())
    assert handler.find_unused_parameters is looks
