"""What the arguments ask of compilers and of replaced kernels: ``torch_compile*`` and ``*liger_kernel*``.

As in ``transformers``, a backend or a mode switches compilation on. Unlike there, compiling does not switch on TF32 as
well: that is a precision, and ``tf32`` says which. Nothing here compiles.
"""

from __future__ import annotations

from typing import Any

from raytrainer.errors import ConfigurationError

_TAKES_NO_MODE = frozenset({"eager", "aot_eager", "aot_eager_decomp_partition", "aot_ts", "cudagraphs"})
"""Backends of torch that leave a mode out with no more than a warning."""


def normalize_compilation(args: Any) -> None:
    """Switch compilation on where only its backend or mode is named, as ``transformers`` does; name the backend."""
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    args.torch_compile = bool(args.torch_compile or backend or mode)
    if args.torch_compile:
        args.torch_compile_backend = str(backend or "inductor").lower()


def check_kernels(args: Any) -> None:
    """Check what was asked of compilers and kernels, without a device.

    Raises:
        ConfigurationError: For a backend or mode that torch does not have, or for a contradiction.
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
            f"liger_kernel_config={args.liger_kernel_config!r} has no use without use_liger_kernel=True. Set it, or "
            "leave liger_kernel_config out."
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

    known = torch._dynamo.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigurationError(
            f"torch_compile_backend={backend!r} is no backend of torch.compile here; there are {known}. Take one of "
            "them, or register yours with torch._dynamo.register_backend first."
        )
    if mode is None:
        return
    modes = list(torch._inductor.list_mode_options())
    if backend == "inductor" and mode not in modes:
        raise ConfigurationError(f"torch_compile_mode={mode!r} is none of {modes}. Take one of them.")
    if backend in _TAKES_NO_MODE and mode != "default":
        raise ConfigurationError(
            f"torch_compile_mode={mode!r} is a mode of the backend inductor, and torch_compile_backend={backend!r} has "
            "none. Leave one of the two out."
        )
