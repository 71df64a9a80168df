"""How a model's weights are written to a directory, and read into a model that exists.

Files and names are those of ``transformers.Trainer``, so that each loads what the other saved. Reading is strict:
names and shapes are compared before the first value is copied, so a model is never half loaded, and a weight that is
not loaded is always an error.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import accelerate.utils.other as accelerate_models
import torch
import transformers
from torch import nn

from raytrainer.checkpoint.model_classes import is_peft_model, is_transformers_model
from raytrainer.checkpoint.model_match import Layout, match_layout
from raytrainer.checkpoint.names import WEIGHTS_NAME
from raytrainer.checkpoint.pickles import cause_of
from raytrainer.checkpoint.sharded_weights import (
    copy_full_state,
    gather_state_dict,
    is_saved_in_parts,
    load_sharded_weights,
    original_class,
    save_in_parts,
)
from raytrainer.checkpoint.tensor_files import read_tensors, write_tensors
from raytrainer.checkpoint.weight_files import WeightFiles, find_adapter, find_weights, read_shapes
from raytrainer.errors import CheckpointError
from raytrainer.layout.ranks import current_rank
from raytrainer.layout.tensor_layout import has_distributed_parameters
from raytrainer.user_types import ProcessingClass

logger = logging.getLogger(__name__)


def save_model_weights(
    model: Any,
    directory: Path,
    *,
    processing_class: ProcessingClass | None = None,
    state_dict: Mapping[str, Any] | None = None,
) -> list[Path]:
    """One rank: write what ``from_pretrained`` needs, or a plain module's weights.

    Args:
        model: The user's model (any ``nn.Module``), not a wrapper around it.
        directory: Created if it does not exist.
        processing_class: Tokenizer or processor that is saved beside the weights.
        state_dict: Weights to write instead of the model's own, such as those gathered from shards.

    Returns:
        The files that were written or changed, except what other ranks may be writing (their random states).
    """
    directory.mkdir(parents=True, exist_ok=True)
    before = _stamps(directory)
    if is_transformers_model(model) or is_peft_model(model):
        saved: Any = model
        with _without_progress_bars(), _without_search_for_engines():
            saved.save_pretrained(directory, state_dict=None if state_dict is None else dict(state_dict))
    else:
        tensors = _savable(model.state_dict() if state_dict is None else state_dict)
        write_tensors(directory / WEIGHTS_NAME, tensors)
    if processing_class is not None:
        processing_class.save_pretrained(directory)
    after = _stamps(directory)
    return sorted(path for path, stamp in after.items() if before.get(path) != stamp)


def save_sharded_model(
    model: Any, directory: Path, *, processing_class: ProcessingClass | None = None
) -> None:
    """All ranks: write the weights of a model that is distributed over ranks, as ``save_model_weights`` does otherwise.

    Every rank writes its share of the tensors. If the files have other names or shapes than the model in memory, or
    hold an adapter only, rank 0 gathers the weights and writes them all.

    Args:
        model: A model with sharded parameters.
        directory: Where to write, on storage that all ranks share.
        processing_class: A tokenizer or processor to save beside the weights.
    """
    is_first = current_rank() == 0
    if is_saved_in_parts(model):
        save_in_parts(model, directory)
        if is_first and processing_class is not None:
            processing_class.save_pretrained(directory)
        return
    weights = gather_state_dict(model)
    if is_first:
        save_model_weights(model, directory, processing_class=processing_class, state_dict=weights)


def load_model_weights(model: nn.Module, directory: Path) -> None:
    """Read weights into a model; every weight is read, or the model stays as it is.

    Raises:
        CheckpointError: If there are no weights, they are damaged, or they are those of another model.
    """
    weights = find_weights(directory)
    if weights is None:
        adapter = find_adapter(directory)
        if adapter is None or not hasattr(model, "load_adapter"):
            raise CheckpointError(
                f"{directory} has no {WEIGHTS_NAME} or another file of weights for a {type(model).__name__}."
            )
        _load_adapter(model, adapter)
    elif weights.are_safetensors:
        _load_safetensors(model, directory, weights)
    else:
        _load_torch_files(model, directory, weights)


def _load_safetensors(model: nn.Module, directory: Path, weights: WeightFiles) -> None:
    if match_layout(read_shapes(weights), model, directory) is Layout.CONVERTED:
        _load_converted(model, directory)
        return
    if has_distributed_parameters(model):
        load_sharded_weights(model, weights.paths)
        return
    for path in weights.paths:
        model.load_state_dict(read_tensors(path), strict=False)


def _load_torch_files(model: nn.Module, directory: Path, weights: WeightFiles) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for path in weights.paths:
        try:
            tensors |= torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read as weights that torch.save wrote: {cause_of(error)}"
            ) from error
    layout = match_layout({name: tuple(tensor.shape) for name, tensor in tensors.items()}, model, directory)
    if layout is Layout.CONVERTED:
        del tensors
        _load_converted(model, directory)
    else:
        _copy(model, tensors)


def _load_converted(model: nn.Module, directory: Path) -> None:
    """Read what transformers saved under other names: only its own ``from_pretrained`` can convert them back."""
    assert is_transformers_model(model)
    untyped: Any = original_class(model)
    loaded: nn.Module
    info: dict[str, Any]
    with _without_progress_bars():
        loaded, info = untyped.from_pretrained(
            directory, config=model.config, dtype=model.dtype, output_loading_info=True
        )
    wrong = [
        str(entry) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for entry in info[kind]
    ]
    if wrong:
        raise CheckpointError(
            f"{directory} does not hold all weights of this {type(model).__name__}; transformers reports "
            f"{', '.join(sorted(wrong)[:3])}."
        )
    _copy(model, loaded.state_dict())


def _copy(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    if has_distributed_parameters(model):
        copy_full_state(model, tensors)
    else:
        model.load_state_dict(tensors, strict=False)


def _load_adapter(model: nn.Module, file: Path) -> None:
    """Read the weights of a PEFT model's one active adapter; the base model's are not in a checkpoint."""
    # A property in PEFT, a method in transformers.
    active: Any = model.active_adapters() if callable(model.active_adapters) else model.active_adapters
    names: list[str] = list(active)
    if len(names) != 1:
        raise CheckpointError(
            f"The model has the active adapters {', '.join(names) or 'none'}, and {file.parent} has weights for one. "
            "Activate the one that was trained."
        )
    options = {"hotswap": True} if is_transformers_model(model) else {}
    untyped: Any = model
    try:
        with _without_progress_bars():
            result = untyped.load_adapter(
                str(file.parent), adapter_name=names[0], is_trainable=True, **options
            )
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} does not fit the adapter {names[0]!r}: {error}") from error
    missing = sorted(getattr(result, "missing_keys", None) or ())
    if missing:
        raise CheckpointError(
            f"{file} does not hold all weights of the adapter {names[0]!r}: {', '.join(missing[:3])}"
        )


def _savable(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Turn a plain module's state dict into what safetensors can hold: contiguous tensors with memory of their own.

    Tied weights are written under each of their names, so that ``load_state_dict`` finds all that it asks for, also
    in transformers' Trainer, which has no other way to load a plain module.
    """
    strange = [
        f"{name} ({type(value).__name__})"
        for name, value in state.items()
        if not isinstance(value, torch.Tensor)
    ]
    if strange:
        raise CheckpointError(
            f"The model's state_dict() holds {', '.join(strange[:3])}, and weights are saved as safetensors, which "
            "holds tensors only. Make it a buffer, or override save_model."
        )
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in storages else tensor.contiguous()
        storages.add(storage)
    return tensors


def _stamps(directory: Path) -> dict[Path, tuple[int, int]]:
    found: dict[Path, tuple[int, int]] = {}
    for path in directory.rglob("*"):
        if path.is_file() and not path.name.startswith("rng_state"):
            stat = path.stat()
            found[path] = (stat.st_mtime_ns, stat.st_size)
    return found


@contextlib.contextmanager
def _without_progress_bars() -> Generator[None]:
    """The progress bars of transformers would break the live line of a run."""
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers.utils.logging.enable_progress_bar()


@contextlib.contextmanager
def _without_search_for_engines() -> Generator[None]:
    """Keep accelerate from importing DeepSpeed, which takes seconds, to see whether a model is one of its engines."""
    name = "is_deepspeed_available"
    found: Any = getattr(accelerate_models, name, None)
    if found is None or "deepspeed" in sys.modules:
        yield
        return
    setattr(accelerate_models, name, lambda: False)
    try:
        yield
    finally:
        setattr(accelerate_models, name, found)
