"""Which form the rows of a dataset have, and whether a chat template can do what is asked of it.

The forms are those of TRL: text, prompt and completion, conversations (``messages``, or prompt and completion as lists
of messages; ``conversations`` with ``from`` and ``value`` is the earlier spelling), and rows that are tokenized.
"""

# Rows are the user's.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError

_IMAGES = ("image", "images")


class Form(enum.Enum):
    """What a row holds."""

    TOKENS = "input_ids"
    TEXT = "a text"
    COMPLETION = "prompt and completion"
    CHAT = "messages"
    CHAT_COMPLETION = "prompt and completion as messages"

    @property
    def has_completion(self) -> bool:
        """Whether a row says which part of it answers."""
        return self in (Form.COMPLETION, Form.CHAT_COMPLETION)

    @property
    def is_chat(self) -> bool:
        """Whether a row needs a chat template."""
        return self in (Form.CHAT, Form.CHAT_COMPLETION)


def form_of(row: Mapping[str, Any], text_field: str, name: str) -> Form:
    """Tell the form of a dataset from one of its rows.

    Args:
        row: Any row.
        text_field: The column that has the text, where there is one.
        name: What messages call the dataset.

    Raises:
        ConfigurationError: If it has none of the forms.
    """
    if "input_ids" in row:
        return Form.TOKENS
    if any(column in row for column in _IMAGES):
        raise ConfigurationError(
            f"The {name} dataset has images ({sorted(row)}), and models of vision and language are not available in "
            "this version of raytrainer's SFTTrainer. Use Trainer with a collator of your own."
        )
    if "prompt" in row and "completion" in row:
        return Form.CHAT_COMPLETION if is_conversation(row["prompt"]) else Form.COMPLETION
    if is_conversation(row.get("messages")) or is_conversation(row.get("conversations")):
        return Form.CHAT
    if isinstance(row.get(text_field), str):
        return Form.TEXT
    raise ConfigurationError(
        f"The {name} dataset has the columns {sorted(row)}, and none of the forms that are known: a text in "
        f"{text_field!r} (dataset_text_field), 'prompt' and 'completion', 'messages', or 'input_ids'. Rename the "
        "columns, set dataset_text_field, or pass formatting_func=."
    )


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and ({"role", "content"} <= value[0].keys() or {"from", "value"} <= value[0].keys())
    )


def as_messages(value: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with ``role`` and ``content``, without the keys that a table fills up with None."""
    renamed = {"from": "role", "value": "content"}
    return [
        {renamed.get(key, key): item for key, item in message.items() if item is not None}
        for message in value
    ]


def check_template(tokenizer: Any, *, marks_assistant: bool) -> None:
    """Check that a tokenizer's chat template can be used.

    Raises:
        ConfigurationError: If there is none, or it does not mark what the assistant says.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise ConfigurationError(
            f"The dataset has conversations, and the {type(tokenizer).__name__} has no chat template. Set "
            "chat_template_path to a Jinja file or to a tokenizer that has one, or tokenizer.chat_template."
        )
    texts = template.values() if isinstance(template, Mapping) else [template]
    if marks_assistant and not any("generation %}" in text or "generation -%}" in text for text in texts):
        raise ConfigurationError(
            "assistant_only_loss=True needs a chat template that marks what the assistant says, and this one has no "
            "{% generation %} ... {% endgeneration %}. Put the marks around the assistant's content and the token that "
            "ends its turn (chat_template_path), or leave assistant_only_loss out."
        )
