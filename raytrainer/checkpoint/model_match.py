"""Whether the weights of a checkpoint are those of a model: the same names with the same shapes.

Tied weights count once: a file that has one name of a group of tied weights has them all. Weights are
tied if they share memory in the model, whatever its config declares: a declared tie that does not exist would leave a
weight random.

Transformers saves some architectures under names and shapes that differ from those in memory (the experts of a mixture
one by one, for example). For these, both layouts match.
"""

from __future__ import annotations

import enum
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raytrainer.checkpoint.model_classes import is_transformers_model
from raytrainer.checkpoint.safetensors_header import Shape
from raytrainer.checkpoint.weight_files import find_weights, read_shapes
from raytrainer.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)

_NUM_SHOWN = 3


class Layout(enum.Enum):
    """Which names and shapes a file uses for a model."""

    NATIVE = "native"
    """Those of ``model.state_dict()``."""
    CONVERTED = "converted"
    """Those that transformers' ``save_pretrained`` writes for this architecture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTensors:
    """The tensors of a model's ``state_dict()``, by name."""

    shapes: dict[str, Shape]
    ties: list[list[str]]
    """The names of each tensor that has several, sorted."""


def model_signature(model: nn.Module) -> str:
    """Identify a model by the names and shapes of its tensors; values and dtypes do not matter."""
    tensors = model_tensors(model)
    repeated = {name for names in tensors.ties for name in names[1:]}
    entries = [[name, list(shape)] for name, shape in sorted(tensors.shapes.items()) if name not in repeated]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def model_tensors(model: nn.Module) -> ModelTensors:
    """Look up the names, shapes and ties of a model's tensors, without copying any."""
    import torch

    from raytrainer.layout.tensor_layout import full_shape

    state = model.state_dict(keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return ModelTensors(
        shapes={name: tuple(full_shape(tensor)) for name, tensor in tensors.items()}, ties=tied_names(tensors)
    )


def tied_names(tensors: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Group the names of one and the same tensor ``[...]``: sorted groups of two or more."""
    groups: dict[object, list[str]] = {}
    for name in sorted(tensors):
        groups.setdefault(_identity(tensors[name]), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def check_matches_model(path: Path, model: nn.Module) -> None:
    """Check that a checkpoint was written for a model, by reading headers only.

    Adapters and weights that torch.save wrote have no headers; they are checked when they are loaded.

    Raises:
        CheckpointError: If names or shapes differ; shows the first of the differences.
    """
    weights = find_weights(path)
    if weights is not None and weights.are_safetensors:
        match_layout(read_shapes(weights), model, path)


def match_layout(found: Mapping[str, Shape], model: nn.Module, path: Path) -> Layout:
    """Return the layout of a model that a file has.

    Args:
        found: Name -> shape of the tensors in the file.
        model: The model to load into.
        path: The file, for messages.

    Raises:
        CheckpointError: If it has neither; shows the first differences from the closer one.
    """
    tensors = model_tensors(model)
    native = differences(found, tensors, model)
    if not native:
        return Layout.NATIVE
    converted = converted_shapes(model)
    nearer = native
    if converted is not None:
        other = differences(found, ModelTensors(shapes=converted, ties=tensors.ties), model)
        if not other:
            return Layout.CONVERTED
        nearer = min(native, other, key=len)
    shown = "; ".join(nearer[:_NUM_SHOWN])
    more = f"; and {len(nearer) - _NUM_SHOWN} more" if len(nearer) > _NUM_SHOWN else ""
    raise CheckpointError(
        f"{path} was written for another model than this {type(model).__name__}: {shown}{more}. Build the model as it "
        "was when the checkpoint was saved (same class, config and number of labels), or start without the checkpoint."
    )


def differences(found: Mapping[str, Shape], tensors: ModelTensors, model: nn.Module) -> list[str]:
    """List the differences in names and shapes between a file and a model, except allowed ones.

    Left out are tied weights that are present under another name, what the model's class does not save, what it
    expects in old files without needing it, and the tensors of modules that load themselves.

    Args:
        found: Name -> shape of the tensors in the file.
        tensors: Names, shapes and ties of the model.
        model: The model.

    Returns:
        One line for each difference.
    """
    present_by_tie = {name for names in tensors.ties if found.keys() & set(names) for name in names}
    may_miss = present_by_tie | set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    may_have = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    loads_itself = modules_that_load_themselves(model)
    lines: list[str] = []
    for name in sorted(found.keys() | tensors.shapes.keys()):
        there, here = found.get(name), tensors.shapes.get(name)
        if name.rpartition(".")[0] in loads_itself:
            continue
        if there is None and name not in may_miss:
            lines.append(f"{name} {_in_brackets(here)} is missing in the checkpoint")
        elif here is None and not _matches_any(name, may_have):
            lines.append(f"the model has no {name} {_in_brackets(there)}")
        elif there is not None and here is not None and there != here:
            lines.append(
                f"{name} is {_in_brackets(there)} in the checkpoint and {_in_brackets(here)} in the model"
            )
    return lines


def modules_that_load_themselves(model: nn.Module) -> set[str]:
    """The names of modules that take their own tensors from a state dict, so that shapes may differ from now.

    A module says so with a ``_load_from_state_dict`` of its own or a hook before it, as one does whose buffer grows
    during training. Those of torch do not count: they only rename what old files hold.
    """
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    return {name for name, module in modules if _loads_itself(module)}


def _loads_itself(module: Any) -> bool:
    if module._load_state_dict_pre_hooks:
        return True
    defined_in = cast("str", type(module)._load_from_state_dict.__module__)
    return not defined_in.startswith(("torch.", "bitsandbytes."))


def converted_shapes(model: nn.Module) -> dict[str, Shape] | None:
    """The names and shapes that ``save_pretrained`` writes, where they are not those of the model in memory."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    from raytrainer.layout.tensor_layout import full_shape

    if not is_transformers_model(model):
        return None
    state = {
        name: torch.empty(full_shape(value), dtype=value.dtype, device="meta")
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, torch.Tensor)
    }
    try:
        converted = cast("dict[str, torch.Tensor]", revert_weight_conversion(model, state))
    except Exception as error:  # noqa: BLE001 - the caller then shows how the files differ from the model in memory
        logger.debug(
            "The layout that save_pretrained writes for %s is unknown: %s", type(model).__name__, error
        )
        return None
    if converted.keys() == state.keys():
        return None
    return {name: tuple(value.shape) for name, value in converted.items()}


def _identity(tensor: torch.Tensor) -> object:
    import torch

    if (
        type(tensor) not in (torch.Tensor, torch.nn.Parameter)
        or tensor.device.type == "meta"
        or not tensor.numel()
    ):
        return id(tensor)
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
    )


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _in_brackets(shape: Any) -> str:
    return f"[{', '.join(map(str, shape))}]"
