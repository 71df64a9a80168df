"""From a row of a dataset to the tokens and targets of an example.

A target is a label that is not -100. Targets are all tokens of a text, the completion after a prompt, or what the chat
template marks as the assistant's. An example is truncated to the maximum length; one without targets is dropped, since
nothing is learned from it.

Runs where datasets are mapped: in the driver process, in its subprocesses, or while a stream is read. No model, no
device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.sft.chat import Form, as_messages, form_of
from raytrainer.sft.collator import IGNORED

Columns = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class ExampleMaker:
    """Makes examples from rows.

    Args:
        form: The form of the rows.
        tokenizer: Needs a chat template if rows are conversations.
        text_field: The column with the text.
        completion_only: Only tokens of completions are targets.
        assistant_only: Only what the chat template marks is a target.
        max_length: Longer examples are truncated [tokens]; None does not truncate, as for packing.
        keeps_end: Truncate at the beginning instead of the end.
        formatting_func: Makes a text from a row.
    """

    form: Form
    tokenizer: Any
    text_field: str = "text"
    completion_only: bool = False
    assistant_only: bool = False
    max_length: int | None = None
    keeps_end: bool = False
    formatting_func: Callable[[Any], Any] | None = None

    def __call__(self, columns: Columns) -> Columns:
        """Make examples from several rows.

        Args:
            columns: Column -> values.

        Returns:
            ``input_ids`` and ``labels``, lists of token ids; possibly fewer than rows.
        """
        made: Columns = {"input_ids": [], "labels": []}
        for ids, labels in self._examples(columns):
            if self.max_length is not None:
                kept = slice(-self.max_length, None) if self.keeps_end else slice(self.max_length)
                ids, labels = ids[kept], labels[kept]
            if any(label != IGNORED for label in labels):
                made["input_ids"].append(ids)
                made["labels"].append(labels)
        return made

    def _examples(self, columns: Columns) -> list[tuple[list[int], list[int]]]:
        rows = _rows(columns)
        if self.formatting_func is not None:
            return self._texts(formatted(self.formatting_func, rows))
        if self.form is Form.TEXT:
            return self._texts(columns[self.text_field])
        if self.form is Form.COMPLETION:
            return self._completions(columns["prompt"], columns["completion"])
        make = {Form.TOKENS: self._tokens, Form.CHAT: self._chat, Form.CHAT_COMPLETION: self._chat_completion}
        return [make[self.form](row) for row in rows]

    def _tokens(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        ids = list(row["input_ids"])
        labels = list(row["labels"]) if row.get("labels") is not None else list(ids)
        if row.get("labels") is None:
            masks = ["assistant_masks", *(["completion_mask"] if self.completion_only else [])]
            for mask in (row[name] for name in masks if row.get(name) is not None):
                labels = [label if kept else IGNORED for label, kept in zip(labels, mask, strict=True)]
        attended = row.get("attention_mask")
        if attended is not None and not all(attended):
            # Rows are padded batch by batch; earlier padding is removed.
            ids = [token for token, kept in zip(ids, attended, strict=True) if kept]
            labels = [label for label, kept in zip(labels, attended, strict=True) if kept]
        return ids, labels

    def _texts(self, texts: list[str]) -> list[tuple[list[int], list[int]]]:
        tokenized = self.tokenizer(text=[self._ended(text) for text in texts])["input_ids"]
        return [(ids, list(ids)) for ids in tokenized]

    def _ended(self, text: str) -> str:
        end = self.tokenizer.eos_token
        return text if text.endswith(end) else text + end

    def _completions(self, prompts: list[str], completions: list[str]) -> list[tuple[list[int], list[int]]]:
        whole = [
            prompt + self._ended(completion) for prompt, completion in zip(prompts, completions, strict=True)
        ]
        tokenized = self.tokenizer(text=whole)["input_ids"]
        if not self.completion_only:
            return [(ids, list(ids)) for ids in tokenized]
        before = self.tokenizer(text=prompts)["input_ids"]
        return [
            (ids, masked(ids, common_prefix(prompt, ids)))
            for prompt, ids in zip(before, tokenized, strict=True)
        ]

    def _chat(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        messages = as_messages(row["messages"] if row.get("messages") else row["conversations"])
        return self._rendered(messages, row)

    def _chat_completion(self, row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        prompt = as_messages(row["prompt"])
        ids, labels = self._rendered(prompt + as_messages(row["completion"]), row)
        if self.completion_only:
            before = self._render(prompt, row, add_generation_prompt=True)["input_ids"]
            num_before = common_prefix(before, ids)
            labels = masked(labels, num_before)
        return ids, labels

    def _rendered(
        self, messages: list[dict[str, Any]], row: Mapping[str, Any]
    ) -> tuple[list[int], list[int]]:
        rendered = self._render(messages, row, return_assistant_tokens_mask=self.assistant_only)
        ids = list(rendered["input_ids"])
        if not self.assistant_only:
            return ids, list(ids)
        mask = rendered["assistant_masks"]
        if not any(mask):
            raise ConfigurationError(
                f"assistant_only_loss=True, but the chat template marks nothing in a conversation with the roles "
                f"{[message.get('role') for message in messages]}. Put {{% generation %}} ... {{% endgeneration %}} "
                "around what the assistant says, or drop conversations without an assistant's message."
            )
        return ids, [token if marked else IGNORED for token, marked in zip(ids, mask, strict=True)]

    def _render(self, messages: list[dict[str, Any]], row: Mapping[str, Any], **options: object) -> Any:
        tools = row.get("tools")
        return self.tokenizer.apply_chat_template(
            messages,
            tools=json.loads(tools) if isinstance(tools, str) else tools,
            tokenize=True,
            return_dict=True,
            **options,
            **(row.get("chat_template_kwargs") or {}),
        )


def maker_for(row: Mapping[str, Any], name: str, **options: Any) -> ExampleMaker:
    """Return the maker for a dataset, given one of its rows.

    Args:
        row: Any row.
        name: Name of the dataset in messages.
        **options: Fields of ``ExampleMaker`` other than ``form``.

    Raises:
        ConfigurationError: If the row has an unknown form.
    """
    if options.get("formatting_func") is not None:
        return ExampleMaker(form=Form.TEXT, **options)
    return ExampleMaker(form=form_of(row, options["text_field"], name), **options)


def formatted(function: Callable[[Any], Any], rows: list[dict[str, Any]]) -> list[str]:
    """Return the texts that a user's function makes from rows.

    Raises:
        ConfigurationError: If it returns something other than text.
    """
    texts: list[str] = []
    for row in rows:
        made = function(row)
        if not isinstance(made, str):
            raise ConfigurationError(
                f"formatting_func returned a {type(made).__name__} for one row (with the columns {sorted(row)}), but a "
                "text was expected. Return a str for each row."
            )
        texts.append(made)
    return texts


def common_prefix(ids: list[int], others: list[int]) -> int:
    """Return the length of the common prefix of two sequences [tokens]."""
    for index, (one, other) in enumerate(zip(ids, others, strict=False)):
        if one != other:
            return index
    return min(len(ids), len(others))


def masked(labels: list[int], num_before: int) -> list[int]:
    """Return labels with the first ``num_before`` set to -100."""
    return [IGNORED] * num_before + list(labels[num_before:])


def _rows(columns: Columns) -> list[dict[str, Any]]:
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
