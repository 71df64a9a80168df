"""How the state of a save gets to host memory: instead of a file, its writer hands over what would be in it.

All hooks of a save run as they do otherwise, in the same order, and files that they write themselves are written at
once. The two functions that write nearly all bytes of a checkpoint (``tensor_files.write_tensors`` and
``torch_files.write_state``) ask here first. While a save is staged they make an empty file, so that its name is known
to whoever looks, and leave its content to the process that writes.

transformers and peft write weights with a function of their own, which is exchanged for ours meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from raytrainer.checkpoint.background.arena import Arena, bytes_of
from raytrainer.checkpoint.background.images import (
    has_header,
    header_of,
    in_file_order,
    skeleton_of,
    storages_of,
)
from raytrainer.checkpoint.background.messages import Image, Part

_WRITERS_OF_OTHERS = (
    ("transformers.modeling_utils", "safe_save_file"),
    ("peft.peft_model", "safe_save_file"),
)
"""Modules, and the names in them of the function of safetensors that writes a file."""

_current: ContextVar[Stage | None] = ContextVar("stage", default=None)


class Stage:
    """What one rank hands over in one save.

    Args:
        arena: Holds the bytes.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.files: list[Image] = []

    def put_tensors(
        self, path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
    ) -> None:
        """Take over a safetensors file.

        Args:
            path: The file.
            tensors: Name -> tensor ``[...]``, contiguous.
            metadata: Text in its header.
        """
        ordered = in_file_order(tensors)
        parts: list[Part] = [header_of(ordered, metadata)]
        parts += [self._arena.take(_content(name, tensor)) for name, tensor in ordered]
        _make_empty(path)
        self.files.append(Image(path=path, parts=parts))

    def put_state(self, path: Path, state: object, check: Callable[[Path], None]) -> None:
        """Take over a file of ``torch.save``.

        Args:
            path: The file.
            state: What it holds.
            check: Raises if the file could not be read back; gets one without the values of tensors.
        """
        storages = storages_of(state)
        places = [self._arena.take(bytes_of(storage)) for storage in storages]
        _make_empty(path)
        self.files.append(Image(path=path, parts=skeleton_of(state, path.name, places, check)))


def current_stage() -> Stage | None:
    """The stage of this thread while a save is staged."""
    return _current.get()


@contextlib.contextmanager
def staging(arena: Arena) -> Generator[Stage]:
    """Hand over files instead of writing them, in this thread; at the end all bytes have been copied.

    Args:
        arena: Gets them.
    """
    stage = Stage(arena)
    token = _current.set(stage)
    try:
        with contextlib.ExitStack() as exchanged:
            for module, name in _WRITERS_OF_OTHERS:
                exchanged.enter_context(_handed_over(module, name))
            yield stage
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.current_stream().synchronize()
    finally:
        _current.reset(token)


@contextlib.contextmanager
def _handed_over(module_name: str, name: str) -> Generator[None]:
    module = sys.modules.get(module_name)
    original: Any = getattr(module, name, None)
    if original is None:
        yield
        return

    def hand_over(
        tensors: dict[str, torch.Tensor], filename: Any, metadata: dict[str, str] | None = None
    ) -> None:
        stage = _current.get()
        if stage is None or not has_header(tensors):  # another thread saves a model; or odd dtypes
            original(tensors, filename, metadata=metadata)
        else:
            stage.put_tensors(Path(filename), tensors, metadata or {})

    setattr(module, name, hand_over)
    try:
        yield
    finally:
        setattr(module, name, original)


def _content(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, ``[bytes]`` in uint8, without a copy."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} is not contiguous in memory, and safetensors writes only tensors that are. Call .contiguous()."
        )
    begin = tensor.storage_offset() * tensor.element_size()
    return bytes_of(tensor.untyped_storage())[begin : begin + tensor.numel() * tensor.element_size()]


def _make_empty(path: Path) -> None:
    with path.open("wb"):
        pass
