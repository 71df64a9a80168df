"""On each rank of torchrun: bytes held under DDP and FSDP2, costs of loading and saving. Rank 0 writes JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.tensor import DTensor

import raytrainer
from raytrainer.backends.fsdp2 import FullyShardedBackend
from raytrainer.checkpoint.model_files import save_model_weights
from raytrainer.checkpoint.optimizer_files import save_optimizer_shards
from raytrainer.checkpoint.optimizer_state import optimizer_state
from raytrainer.checkpoint.sharded_weights import gather_state_dict, save_in_parts
from raytrainer.dialects.fsdp import ShardingOptions
from raytrainer.worker.sharded_loading import load_in_shards

ROUNDS = 5


def make_model(width: int = 768) -> transformers.LlamaForCausalLM:
    """A Llama of 63 M parameters."""
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=4096,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=8,
            num_attention_heads=12,
        )
    )


class Holdings(transformers.TrainerCallback):
    """Counts the bytes of parameters, gradients and optimizer state that this rank holds."""

    def __init__(self) -> None:
        self.num_bytes: dict[str, int] = {}
        self.trainer: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = list(kwargs["model"].parameters())
        self.num_bytes["parameters"] = local_bytes([getattr(one, "ds_tensor", one) for one in parameters])
        zero = getattr(self.trainer.model_wrapped, "optimizer", None)
        self.num_bytes["master copies"] = master_weights(zero, parameters)
        self.num_bytes["gradients"] = (
            local_bytes([parameter.grad for parameter in parameters])
            if zero is None
            else zero_gradients(zero)
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        states = [value for one in kwargs["optimizer"].state.values() for value in one.values()]
        self.num_bytes["optimizer state"] = local_bytes(states)


def zero_gradients(zero: Any) -> int:
    """Bytes of the gradients that ZeRO has reduced to this rank's partition, before a step."""
    return local_bytes([one for group in zero.averaged_gradients.values() for one in group or []])


def master_weights(zero: Any, parameters: list[Any]) -> int:
    """Bytes of the master copies that ZeRO updates, if there are any."""
    if zero is None:
        return 0
    flats = getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups
    used = {getattr(one, "ds_tensor", one).untyped_storage().data_ptr() for one in parameters}
    return local_bytes([flat for flat in flats if flat.untyped_storage().data_ptr() not in used])


def local_bytes(tensors: list[Any]) -> int:
    """Bytes on this rank."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def memory(name: str) -> int:
    """A line of this process' memory [bytes]: VmRSS, or VmHWM, its peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def make_trainer(directory: Path, model: Any, **options: Any) -> tuple[raytrainer.Trainer, Holdings]:
    """A trainer for two steps."""
    holdings = Holdings()
    args = raytrainer.TrainingArguments(
        output_dir=str(directory),
        num_workers=dist.get_world_size() if dist.is_initialized() else None,
        per_device_train_batch_size=1,
        max_steps=2,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    samples = [{"input_ids": torch.arange(16), "labels": torch.arange(16)} for _ in range(8)]
    trainer = raytrainer.Trainer(model=model, args=args, train_dataset=samples, callbacks=[holdings])
    holdings.trainer = trainer
    return trainer, holdings


def measure_loading(directory: Path) -> dict[str, int]:
    """Growth of peak memory, and the bytes of this rank's shard."""
    dist.init_process_group("gloo")
    backend = FullyShardedBackend(Accelerator(cpu=True), ShardingOptions(loads_on_meta=True))
    # A small model first, so that one-time allocations of the libraries are not measured.
    load_in_shards(str(directory / "small"), backend, torch.device("cpu"))
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    model: Any = load_in_shards(str(directory / "model"), backend, torch.device("cpu"))
    parameters = list(model.parameters())
    return {
        "grown": memory("VmHWM") - before,
        "shard": local_bytes(parameters),
        "layer": max(
            sum(p.numel() * p.element_size() for p in one.parameters()) for one in model.model.layers
        ),
        "whole": sum(p.numel() * p.element_size() for p in parameters),
    }


def timed(action: Any) -> float:
    """Seconds until all ranks are done."""
    dist.barrier()
    began = time.perf_counter()
    action()
    dist.barrier()
    return time.perf_counter() - began


def measure_saving(directory: Path, trainer: raytrainer.Trainer) -> dict[str, list[float]]:
    """Sharded saves and gathered ones, in turn."""
    model, optimizer = trainer.model, trainer.optimizer

    def in_shards(target: Path) -> None:
        save_in_parts(model, target)
        save_optimizer_shards(target, optimizer_state(model, optimizer))

    def gathered(target: Path) -> None:
        weights = gather_state_dict(model)
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(model, optimizer, options=whole)
        if dist.get_rank() == 0:
            save_model_weights(model, target, state_dict=weights)
            torch.save(state, target / "optimizer.pt")

    times: dict[str, list[float]] = {"in shards": [], "gathered": []}
    for number in range(ROUNDS):
        for name, save in (("in shards", in_shards), ("gathered", gathered)):
            target = directory / f"{name}-{number}"
            times[name].append(timed(lambda save=save, target=target: save(target)))
    return times


def main() -> None:
    """All measurements."""
    torch.set_num_threads(1)
    directory = Path(sys.argv[1])
    found: dict[str, Any] = {}
    if sys.argv[2] == "load":
        found["load"] = measure_loading(directory)
    else:
        kinds: dict[str, dict[str, Any]] = {
            "DDP": {},
            **{
                f"ZeRO {stage}": {"deepspeed": {"zero_optimization": {"stage": stage}}} for stage in (1, 2, 3)
            },
            "FSDP2": {"fsdp": True},
        }
        for name, options in kinds.items():
            trainer, holdings = make_trainer(directory / name, make_model(), **options)
            trainer.train()
            found[name] = holdings.num_bytes
        found["save"] = measure_saving(directory, trainer)
    per_rank: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(per_rank, found)
    if dist.get_rank() == 0:
        (directory / f"{sys.argv[2]}.json").write_text(json.dumps(per_rank))
    dist.barrier()


if __name__ == "__main__":
    main()
