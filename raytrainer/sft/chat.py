"""Which form the rows of a dataset have, and whether a chat template can serve them.

The forms are those of TRL: text, prompt and completion, conversations (``messages``, or prompt and completion as lists
of messages; ``conversations`` with ``from`` and ``value`` is the former spelling), and tokenized rows.
"""

# Rows are the user's.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from raytrainer.errors import ConfigurationError

_IMAGES = ("image", "images")


class Form(enum.Enum):
    """The form of a row."""

    TOKENS = "input_ids"
    TEXT = "a text"
    COMPLETION = "prompt and completion"
    CHAT = "messages"
    CHAT_COMPLETION = "prompt and completion as messages"

    @property
    def has_completion(self) -> bool:
        """Whether a row separates the completion from the prompt."""
        return self in (Form.COMPLETION, Form.CHAT_COMPLETION)

    @property
    def is_chat(self) -> bool:
        """Whether a row needs a chat template."""
        return self in (Form.CHAT, Form.CHAT_COMPLETION)


def form_of(row: Mapping[str, Any], text_field: str, name: str) -> Form:
    """Return the form of a dataset, given one of its rows.

    Args:
        row: Any row.
        text_field: The column with the text, if there is one.
        name: Name of the dataset in messages.

    Raises:
        ConfigurationError: If the form is unknown.
    """
    if "input_ids" in row:
        return Form.TOKENS
    if any(column in row for column in _IMAGES):
        raise ConfigurationError(
            f"The {name} dataset has images ({sorted(row)}), but vision-language models are not available in "
            "this version of raytrainer's SFTTrainer. Use Trainer with a collator of your own."
        )
    if "prompt" in row and "completion" in row:
        return Form.CHAT_COMPLETION if is_conversation(row["prompt"]) else Form.COMPLETION
    if is_conversation(row.get("messages")) or is_conversation(row.get("conversations")):
        return Form.CHAT
    if isinstance(row.get(text_field), str):
        return Form.TEXT
    raise ConfigurationError(
        f"The {name} dataset has the columns {sorted(row)}, which is not one of the known forms: a text in "
        f"{text_field!r} (dataset_text_field), 'prompt' and 'completion', 'messages', or 'input_ids'. Rename the "
        "columns, set dataset_text_field, or pass formatting_func=."
    )


def is_conversation(value: object) -> bool:
    """Whether a value is a list of messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and ({"role", "content"} <= value[0].keys() or {"from", "value"} <= value[0].keys())
    )


def as_messages(value: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with ``role`` and ``content``, without keys whose value is None."""
    renamed = {"from": "role", "value": "content"}
    return [
        {renamed.get(key, key): item for key, item in message.items() if item is not None}
        for message in value
    ]


def check_template(tokenizer: PreTrainedTokenizerBase, *, marks_assistant: bool) -> None:
    """Check that a tokenizer's chat template can be used.

    Raises:
        ConfigurationError: If there is none, or it does not mark the assistant's messages.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise ConfigurationError(
            f"The dataset has conversations, but the {type(tokenizer).__name__} has no chat template. Set "
            "chat_template_path to a Jinja file or to a tokenizer that has one, or tokenizer.chat_template."
        )
    texts = template.values() if isinstance(template, Mapping) else [template]
    if marks_assistant and not any("generation %}" in text or "generation -%}" in text for text in texts):
        raise ConfigurationError(
            "assistant_only_loss=True needs a chat template that marks what the assistant says, but this one has no "
            "{% generation %} ... {% endgeneration %}. Put these around the assistant's content and the token that "
            "ends its turn (chat_template_path), or leave assistant_only_loss out."
        )
