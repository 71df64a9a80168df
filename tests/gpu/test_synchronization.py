"""Between two logs the loop never waits for the GPU, and batches reach it from pinned memory without waiting."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import raytrainer
from tests.gpu.twins import make_gpu_trainer
from tests.parity.twins import LIBRARIES, make_samples

FIRST, LAST = 3, 8
"""The steps that are watched: those after the first, in which buffers are made, and before the log of the tenth."""
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class Forbidden(transformers.TrainerCallback):
    """From the end of one step to the end of another, what makes the host wait for the GPU is an error."""

    def __init__(self) -> None:
        self.was_on = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == FIRST:
            torch.cuda.set_sync_debug_mode("error")
            self.was_on = True
        if state.global_step == LAST:
            torch.cuda.set_sync_debug_mode("default")


class Profiled(transformers.TrainerCallback):
    """Counts calls to CUDA and copies in the same steps."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._profile: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == FIRST:
            torch.cuda.synchronize()
            self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profile.start()
        if state.global_step == LAST:
            self._profile.stop()
            self.calls = Counter({event.key: event.count for event in self._profile.key_averages()})

    @property
    def waits(self) -> int:
        """How often the host waited, apart from the end of the profile itself."""
        return sum(self.calls[name] for name in WAITS)


@pytest.fixture(autouse=True)
def waiting_is_allowed_again() -> Any:
    yield
    torch.cuda.set_sync_debug_mode("default")


def make_silent_model() -> transformers.LlamaForCausalLM:
    """A model that reads no number of a tensor itself: with a mask, Llama does not look for packed sequences."""
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=100,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            attention_dropout=0.1,
            attn_implementation="eager",
        )
    )


def make_masked_samples() -> list[dict[str, torch.Tensor]]:
    return [{**one, "attention_mask": torch.ones_like(one["input_ids"])} for one in make_samples()]


OPTIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": True},
    "fp16": {"fp16": True},
    "not clipped": {"max_grad_norm": 0.0, "bf16": True},
    "accumulated": {"gradient_accumulation_steps": 2, "bf16": True},
    "sgd": {"optim": "sgd"},
    "smoothed": {"label_smoothing_factor": 0.1},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 4},
    "recomputed": {"gradient_checkpointing": True, "bf16": True},
    "loading processes": {"dataloader_num_workers": 1, "bf16": True},
    "fsdp": {"fsdp": True, "bf16": True},
    "adafactor": {"optim": "adafactor"},
    "tokens": {"include_num_input_tokens_seen": "all"},
    "emptied cache": {"torch_empty_cache_steps": 1000},
    "noise": {"neftune_noise_alpha": 5.0},
    "filtered": {"logging_nan_inf_filter": False},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_no_step_waits_for_the_gpu_between_logs(case: str, tmp_path: Path) -> None:
    forbidden = Forbidden()
    trainer = make_gpu_trainer(
        raytrainer,
        tmp_path,
        model=make_silent_model(),
        samples=make_masked_samples(),
        callbacks=[forbidden],
        **{"optim": "adamw_torch_fused", "max_steps": 10, "logging_steps": 10, **OPTIONS[case]},
    )
    trainer.train()
    assert forbidden.was_on
    assert trainer.state.global_step == 10


def test_an_item_in_a_step_is_found(tmp_path: Path) -> None:
    class Reads(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            next(kwargs["model"].parameters()).sum().item()

    trainer = make_gpu_trainer(
        raytrainer,
        tmp_path,
        model=make_silent_model(),
        samples=make_masked_samples(),
        callbacks=[Forbidden(), Reads()],
        max_steps=10,
        logging_steps=10,
    )
    with pytest.raises(RuntimeError, match="synchronizing"):
        trainer.train()


def test_the_profiler_sees_no_wait_and_only_copies_from_pinned_memory(tmp_path: Path) -> None:
    found: dict[str, Profiled] = {}
    for name, library in LIBRARIES.items():
        found[name] = Profiled()
        make_gpu_trainer(
            library,
            tmp_path / name,
            model=make_silent_model(),
            samples=make_masked_samples(),
            callbacks=[found[name]],
            max_steps=10,
            logging_steps=10,
            bf16=True,
            optim="adamw_torch_fused",
        ).train()
    copies = {key: count for key, count in found["ours"].calls.items() if key.startswith("Memcpy HtoD")}
    print(
        {name: (one.waits / (LAST - FIRST), dict(one.calls & Counter(WAITS))) for name, one in found.items()}
    )
    print(
        {
            name: {k: v for k, v in one.calls.items() if "Memcpy" in k or "ynchron" in k}
            for name, one in found.items()
        }
    )
    assert found["ours"].calls["cudaLaunchKernel"] > 0, "the profiler saw nothing"
    assert copies, "no batch was copied"
    assert all("Pinned" in key for key in copies), copies
    assert found["ours"].waits <= 1, "the profiler itself waits once, at its end"
