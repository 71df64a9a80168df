"""Arguments about compilers and replacement kernels: ``torch_compile*`` and ``*liger_kernel*``.

As in ``transformers``, naming a backend or a mode switches compilation on. Unlike there, compiling does not also switch
on TF32, which is a matter of precision and has its own argument, ``tf32``. Nothing is compiled here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


_TAKES_NO_MODE = frozenset({"eager", "aot_eager", "aot_eager_decomp_partition", "aot_ts", "cudagraphs"})
"""Backends of torch that ignore a mode with only a warning."""


def normalize_compilation(args: TrainingArguments) -> None:
    """Switch compilation on if a backend or mode is named, as ``transformers`` does; default to inductor."""
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    args.torch_compile = bool(args.torch_compile or backend or mode)
    if args.torch_compile:
        args.torch_compile_backend = str(backend or "inductor").lower()


def check_kernels(args: TrainingArguments) -> None:
    """Check the requested compiler and kernels, without a device.

    Raises:
        ConfigurationError: For a backend or mode unknown to torch, or for a contradiction.
    """
    if args.torch_compile:
        _check_backend(args.torch_compile_backend or "inductor", args.torch_compile_mode)
    else:
        for name in ("torch_compile_backend", "torch_compile_mode"):
            if getattr(args, name):
                raise ConfigurationError(
                    f"torch_compile=False and {name}={getattr(args, name)!r} contradict each other. Set {name}=None "
                    "as well, or torch_compile=True."
                )
    if args.liger_kernel_config and not args.use_liger_kernel:
        raise ConfigurationError(
            f"liger_kernel_config={args.liger_kernel_config!r} has no effect without use_liger_kernel=True. Set that "
            "too, or leave liger_kernel_config out."
        )
    on_cpu = "use_cpu=True" if args.use_cpu else "use_gpu=False" if args.use_gpu is False else None
    if args.use_liger_kernel and on_cpu is not None:
        raise ConfigurationError(
            f"use_liger_kernel=True with {on_cpu}: Liger's kernels are written in Triton, which runs on GPUs only. "
            "Leave use_liger_kernel out, or train on GPUs."
        )


def _check_backend(backend: str, mode: str | None) -> None:
    # Imported late: it takes seconds, and few runs need it.
    import torch
    import torch._dynamo

    known: list[str] = torch._dynamo.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigurationError(
            f"torch_compile_backend={backend!r} is not a backend of torch.compile here; available are {known}. Use one "
            "of them, or register yours with torch._dynamo.register_backend first."
        )
    if mode is None:
        return
    modes = list(torch._inductor.list_mode_options())
    if backend == "inductor" and mode not in modes:
        raise ConfigurationError(f"torch_compile_mode={mode!r} is not one of {modes}. Use one of them.")
    if backend in _TAKES_NO_MODE and mode != "default":
        raise ConfigurationError(
            f"torch_compile_mode={mode!r} is a mode of the backend inductor, but torch_compile_backend={backend!r} has "
            "no modes. Leave one of the two out."
        )
