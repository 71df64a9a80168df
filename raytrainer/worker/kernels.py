"""How a model computes on this rank: with Liger's kernels, and compiled.

Both change the user's module in place, before any backend wraps it. So the names of its weights stay what they are,
training, evaluation and prediction use the same code, and DDP, FSDP2 and ZeRO find the module that they expect.
torch compiles at the first call of the module, after it was sharded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.checkpoint.model_classes import is_transformers_model
from raytrainer.errors import ConfigurationError, MissingPackageError
from raytrainer.loop.model_traits import without_adapter
from raytrainer.telemetry.events import EngagedRow


def apply_kernels(model: nn.Module, args: TrainingArguments) -> None:
    """Give a model the kernels that resolved arguments ask for.

    Raises:
        ConfigurationError: If this process lacks a device, a package or a compiler that they need.
    """
    keep_differentiable(model)
    if args.use_liger_kernel:
        apply_liger(model, args)
    if args.torch_compile:
        check_compiler(str(args.torch_compile_backend), args.device)
        model.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)


def keep_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes' 4-bit layers in the format that has a backward pass.

    On a CPU with AVX512-BF16, the first forward pass in eval mode repacks their weights for a kernel without gradients,
    and nothing undoes it when training goes on: the loss looks right and every gradient below is zero.
    """
    layers: list[Any] = [one for one in model.modules() if hasattr(one, "support_avx512bf16_for_cpu")]
    for module in layers:
        module.support_avx512bf16_for_cpu = False
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            module.state_dict()  # unpacks them


def is_compiled(model: nn.Module) -> bool:
    """Whether a call of the module runs compiled code."""
    return getattr(model, "_compiled_call_impl", None) is not None


def apply_liger(model: nn.Module, args: TrainingArguments) -> None:
    """Replace layers of a model by Liger's.

    Raises:
        ConfigurationError: Without a GPU, without the package, or if the model is not one of transformers.
    """
    if args.device.type == "cpu":
        raise ConfigurationError(
            f"use_liger_kernel=True, but rank {args.process_index} runs on {args.device}: Liger's kernels are written "
            "in Triton, which runs on GPUs only. Leave use_liger_kernel out, or train on GPUs."
        )
    # Imports what transformers has for models, which a driver does without.
    from transformers.integrations import liger

    if not liger.is_liger_kernel_available():
        raise MissingPackageError(
            "use_liger_kernel=True needs the package liger-kernel on the workers, which is not installed or too old. "
            "Run: pip install -U liger-kernel"
        )
    if not is_transformers_model(without_adapter(model)):
        raise ConfigurationError(
            f"use_liger_kernel=True replaces layers of models of transformers, and {type(model).__name__} is not one. "
            "Leave use_liger_kernel out."
        )
    liger.apply_liger_kernel(model, args.liger_kernel_config)


def check_compiler(backend: str, device: torch.device) -> None:
    """Check that this process has the compiler that inductor needs.

    Raises:
        ConfigurationError: If it is missing.
    """
    if backend != "inductor":
        return
    if device.type == "cpu":
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler as error:
            raise ConfigurationError(
                "torch_compile_backend='inductor' compiles C++ on a CPU, and this machine has no compiler for it. "
                "Install one (apt-get install g++), set CXX to one, or use torch_compile_backend='aot_eager'."
            ) from error
    elif device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigurationError(
                "torch_compile_backend='inductor' compiles with Triton on a GPU, and Triton is not installed or does "
                "not support this GPU. Run: pip install triton; or use torch_compile_backend='aot_eager'."
            )


def kernel_rows(model: nn.Module, args: TrainingArguments) -> list[EngagedRow]:
    """The kernels that were asked for and those that are on, for the table of a run."""
    rows: list[EngagedRow] = []
    if args.torch_compile:
        found = is_compiled(model)
        mode = args.torch_compile_mode or "default"
        rows.append(
            EngagedRow(
                what="compile",
                requested=f"{args.torch_compile_backend}, mode {mode}",
                engaged="torch.compile, in place" if found else "not compiled",
                ok=found,
            )
        )
    if args.use_liger_kernel:
        replaced = sorted(_liger_parts(model))
        rows.append(
            EngagedRow(
                what="Liger kernels",
                requested="on",
                engaged=", ".join(replaced[:4]) if replaced else "none",
                ok=bool(replaced),
            )
        )
    return rows


def _liger_parts(model: nn.Module) -> set[str]:
    """Classes of the parts of a model whose forward pass comes from Liger's package."""
    found: set[str] = set()
    for module in model.modules():
        origin: Any = getattr(module.forward, "__func__", module.forward)
        if str(getattr(origin, "__module__", "")).startswith("liger_kernel"):
            found.add(type(module).__name__)
    return found
