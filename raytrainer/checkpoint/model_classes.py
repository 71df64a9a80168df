"""Whether a model is one of transformers or peft, without an import of either.

A model of a library exists only where the library has been imported, so a process without one does not pay for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_transformers_model(model: object) -> TypeGuard[PreTrainedModel]:
    """Whether it is a ``transformers.PreTrainedModel``."""
    return _is_instance(model, "transformers.modeling_utils", "PreTrainedModel")


def is_peft_model(model: object) -> bool:
    """Whether it is a ``peft.PeftModel``."""
    return _is_instance(model, "peft", "PeftModel")


def _is_instance(value: object, module: str, name: str) -> bool:
    # A module that is still being imported has no classes yet, and nothing has instances of them.
    found: Any = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(value, found)
