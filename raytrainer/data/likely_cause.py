"""What probably caused an error in a model or a loss: an index that its table does not have, or uneven tensors.

torch says "index out of range in self" and "Target 7 is out of bounds", and names neither table nor input. The frames
of the error's traceback hold both: the call of the embedding or of the loss that failed, with its arguments. On a GPU
the error comes late, maybe some batches later, and the tensors cannot be read any more; there the same batches are
looked at on the CPU, the newest first.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any, cast

import torch
from torch import nn

_IS_ABOUT_SIZES = re.compile(r"size|shape|dimension|must match|expand|batch_size", re.IGNORECASE)
_IS_LATE = "device-side assert"


def likely_cause(
    error: Exception, model: nn.Module, inputs: Any, *, read_again: Iterable[tuple[str, Any]] = ()
) -> str | None:
    """Describe what an error was probably caused by; None if nothing speaks for it.

    Args:
        error: Was raised in a forward or backward pass.
        model: The unwrapped model.
        inputs: The batch.
        read_again: The same batch once more, on the CPU, and those before it, each with what to call it.
    """
    try:
        if is_late(error):
            return _late(model, read_again)
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            found = _in_call(frame, model)
            if found is not None:
                return found
        if not _IS_ABOUT_SIZES.search(str(error)):
            return None
        return _too_long(inputs, model) or _uneven(inputs)
    except Exception:  # noqa: BLE001 - looking for a cause must not hide the error
        return None


def _in_call(frame: FrameType, model: nn.Module) -> str | None:
    """What is wrong with the arguments of a function of torch."""
    if not frame.f_code.co_filename.endswith("functional.py"):
        return None
    given: dict[str, Any] = frame.f_locals
    if frame.f_code.co_name == "embedding":
        return _missing_row(given["input"], given["weight"], model)
    if frame.f_code.co_name in ("cross_entropy", "nll_loss"):
        return _missing_class(given["input"], given["target"], given.get("ignore_index", -100))
    return None


def _missing_row(ids: torch.Tensor, weight: torch.Tensor, model: nn.Module) -> str | None:
    rows = weight.shape[0]
    wrong = ids[(ids < 0) | (ids >= rows)]
    if wrong.numel() == 0:
        return None
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    name = next(
        (name for name, module in modules if getattr(module, "weight", None) is weight), "an embedding"
    )
    said = f"{name} has rows 0 to {rows - 1}, and its input asks for row {_worst(wrong)}{_where(ids, rows)}."
    if "position" in name:
        return f"{said} The sequence is longer than the model's positions: truncate it to {rows} tokens."
    return f"{said} {_VOCABULARY}"


def _where(ids: torch.Tensor, rows: int) -> str:
    if ids.dim() < 2:
        return ""
    is_wrong = ((ids < 0) | (ids >= rows)).flatten(1).any(1)
    return f", in place {int(is_wrong.nonzero()[0])} of the batch"


_VOCABULARY = (
    "A token id is beyond the vocabulary: use the tokenizer of this model, or resize the model with "
    "model.resize_token_embeddings(len(tokenizer)); -100 belongs into labels only."
)


def _missing_class(logits: torch.Tensor, target: torch.Tensor, ignored: int) -> str | None:
    if target.is_floating_point():
        return None
    classes = logits.shape[1] if logits.dim() > 1 else logits.shape[0]
    wrong = target[((target < 0) | (target >= classes)) & (target != ignored)]
    if wrong.numel() > 0:
        return _too_few_classes(_worst(wrong), classes, ignored)
    if logits.dim() > 1 and logits.shape[0] != target.shape[0]:
        return (
            f"the loss compares {logits.shape[0]} predictions {list(logits.shape)} with {target.shape[0]} labels "
            f"{list(target.shape)}. Give each prediction one label."
        )
    return None


def _too_few_classes(label: int, classes: int, ignored: int = -100) -> str:
    return (
        f"a label is {label}, and the model predicts {classes} classes, 0 to {classes - 1}. Set num_labels when you "
        f"load the model, or number the labels from 0; {ignored} leaves a target out."
    )


def _worst(wrong: torch.Tensor) -> int:
    """The smallest of negative values, else the largest."""
    least = int(wrong.min())
    return least if least < 0 else int(wrong.max())


def _too_long(inputs: Any, model: nn.Module) -> str | None:
    config: Any = getattr(model, "config", None)
    positions: Any = getattr(config, "max_position_embeddings", None)
    ids: Any = cast("Mapping[str, Any]", inputs).get("input_ids") if isinstance(inputs, Mapping) else None
    if (
        not isinstance(positions, int)
        or not torch.is_tensor(ids)
        or ids.dim() < 2
        or ids.shape[1] <= positions
    ):
        return None
    return (
        f"the sequences have {ids.shape[1]} tokens, and the model has {positions} positions "
        "(config.max_position_embeddings). Truncate them."
    )


def _uneven(inputs: Any) -> str | None:
    if not isinstance(inputs, Mapping):
        return None
    named = cast("Mapping[str, Any]", inputs)
    shapes = {name: list(one.shape) for name, one in named.items() if torch.is_tensor(one) and one.dim() > 0}
    lengths = {shape[0] for shape in shapes.values()}
    widths = {shapes[name][1] for name in _PER_TOKEN if len(shapes.get(name, ())) > 1}
    if len(lengths) < 2 and len(widths) < 2:
        return None
    return f"the tensors of the batch have different lengths: {shapes}. Check the collator and the dataset."


_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def is_late(error: Exception) -> bool:
    """Whether a GPU has told of an error that a kernel had some time before."""
    return _IS_LATE in str(error)


def _late(model: nn.Module, read_again: Iterable[tuple[str, Any]]) -> str | None:
    """Compare batches that were read again with what the model says about itself."""
    for place, batch in read_again:
        if isinstance(batch, Mapping):
            found = _beyond_model(model, cast("Mapping[str, Any]", batch))
            if found is not None:
                return f"{place}{found}"
    return (
        "an index that a table does not have, such as a token id beyond the vocabulary or a label beyond num_labels. "
        "Run these samples with use_cpu=True, which names it."
    )


def _beyond_model(model: nn.Module, batch: Mapping[str, Any]) -> str | None:
    config: Any = getattr(model, "config", None)
    ids, labels = batch.get("input_ids"), batch.get("labels")
    find_table: Any = getattr(model, "get_input_embeddings", None)
    table: Any = find_table() if callable(find_table) else None
    if torch.is_tensor(ids) and isinstance(table, nn.Embedding):
        found = _missing_row(ids, table.weight, model)
        if found is not None:
            return found
    if not torch.is_tensor(labels) or labels.is_floating_point() or config is None:
        return None
    is_of_tokens = "ForCausalLM" in type(model).__name__ or "LMHead" in type(model).__name__
    classes: Any = getattr(config, "vocab_size" if is_of_tokens else "num_labels", None)
    wrong = (
        labels[(labels != -100) & ((labels < 0) | (labels >= classes))]
        if isinstance(classes, int)
        else labels[:0]
    )
    return _too_few_classes(_worst(wrong), cast("int", classes)) if wrong.numel() > 0 else None
