"""Writes docs/compatibility.md from the tables that decide: ``python -m docs.generate.compatibility``.

What is the same, better or refused is not said here: arguments are in ``arguments.supported_fields``, methods in
``preflight.unsupported_methods``, earlier names in ``arguments.aliases``, optimizers in ``optim.catalogue``,
differences in ``differences``. Names come from there and from the enums of transformers; tests hold the page against
``transformers.Trainer``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import transformers
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from docs.generate.differences import DIFFERENCES, ELSEWHERE
from raytrainer.arguments.aliases import ALIASES, Alias
from raytrainer.arguments.supported_fields import FIELDS, Refusal
from raytrainer.callbacks.handler import EVENTS
from raytrainer.optim import catalogue
from raytrainer.preflight.unsupported_methods import NEVER_CALLED, ONLY_FOR_USERS, is_implemented
from raytrainer.seq2seq.arguments import Seq2SeqTrainingArguments
from raytrainer.seq2seq.trainer import Seq2SeqTrainer
from raytrainer.trainer import Trainer

PAGE = Path("docs") / "compatibility.md"

INTRODUCTION = """\
# Compatibility with transformers.Trainer

Generated from the tables in the code; to update it, run `python -m docs.generate.compatibility`. Compared with
transformers 5.23.

- *same*: the name, its values and their effect are those of `transformers`.
- *better*: the same, with the improvement in the last column. A test shows each one (`docs/generate/differences.py`).
- *refused*: asking for it is an error before anything starts, "`name` is not available in this version of raytrainer:"
  followed by the sentences of the table. A value that asks for nothing, such as the default, is accepted.

Change `from transformers import Trainer, TrainingArguments` to `from raytrainer import ...`; callbacks, collators,
models and tokenizers stay those of `transformers`.
"""
FILES = """\
## Files

Checkpoints and saved models have the files of `transformers`, and each library resumes from what the other saved.
`manifest.json` and `loop_state.json` are added, and in the files of random states the keys `ahead`, `pass` and `own`.

`training_args.bin` is not written, because it is a pickle, which runs code when it is read. `training_args.json` has
the same arguments, with tokens masked; `TrainingArguments.from_json("model/training_args.json")` reads it. Only uploads
of whole checkpoints include it. For a tool that reads `training_args.bin`, write that file from it:

```python
import dataclasses
import json

import torch
import transformers

with open("model/training_args.json") as file:
    values = json.load(file)
names = {field.name for field in dataclasses.fields(transformers.TrainingArguments) if field.init}
args = transformers.TrainingArguments(**{name: value for name, value in values.items() if name in names})
torch.save(args, "model/training_args.bin")
```
"""
CONSTRUCTOR = (
    "model",
    "args",
    "data_collator",
    "train_dataset",
    "eval_dataset",
    "processing_class",
    "model_init",
    "compute_loss_func",
    "compute_metrics",
    "callbacks",
    "optimizers",
    "optimizer_cls_and_kwargs",
    "preprocess_logits_for_metrics",
)
"""Arguments of the constructor of ``transformers.Trainer``."""
_OURS = {
    "tokenizer": "the earlier name of `processing_class`, with a warning",
    "scaling_config": "Ray's `ScalingConfig`, instead of the flat arguments",
    "run_config": "Ray's `RunConfig`, instead of the flat arguments",
}
Row = tuple[str, str, str]
"""Name, status, note."""


def page() -> str:
    """The page, in Markdown."""
    sections = {
        "Arguments of the constructor": [constructor_row(name) for name in CONSTRUCTOR],
        "Methods that are called": [method_row(name) for name in public_methods()],
        "Methods with an underscore": [method_row(name) for name in private_methods()],
        "TrainingArguments": [field_row(name) for name in argument_names(transformers.TrainingArguments)],
        "Seq2SeqTrainer": [seq2seq_row(name) for name in SEQ2SEQ_METHODS],
        "Seq2SeqTrainingArguments": [field_row(name) for name in seq2seq_names()],
        "Events of callbacks": [event_row(name) for name in EVENTS],
        "Schedules (`lr_scheduler_type`)": [named_row(kind.value) for kind in SchedulerType],
        "Reporters (`report_to`)": [named_row(name) for name in sorted(INTEGRATION_TO_CALLBACK)],
        "Optimizers (`optim`)": [optimizer_row(kind.value) for kind in OptimizerNames],
        "Names of earlier versions": [alias_row(alias) for alias in ALIASES.values()],
    }
    parts = [INTRODUCTION, counted(sections)]
    for title, rows in sections.items():
        parts.append(f"## {title}\n\n{_NOTES.get(title, '')}{table(rows)}")
    parts.append(FILES)
    parts.append(f"## What is here besides\n\n{own_names()}")
    return "\n".join(parts)


_NOTES = {
    "Methods that are called": "If a subclass overrides a method of `transformers.Trainer` that is never called here, "
    "the constructor raises an error.\n\n",
    "Methods with an underscore": "Those with the status *same* may be overridden. Overriding or calling any other is "
    "an error.\n\n",
    "Reporters (`report_to`)": "The callbacks of `transformers`, on rank 0 of the workers.\n\n",
    "Optimizers (`optim`)": "[Optimizers](optimizers.md) lists what each one needs and supports.\n\n",
    "Names of earlier versions": "Accepted as keywords, on the command line, and in dicts, JSON and YAML files, with "
    "one warning each.\n\n",
}


def table(rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = [f"| `{name}` | {status} | {note} |" for name, status, note in rows]
    return "\n".join(["| name | status | what differs, or why and what to do |", "|---|---|---|", *lines, ""])


def counted(sections: Mapping[str, list[Row]]) -> str:
    """How many names of each section are the same, better and refused."""
    lines = ["| | same | better | refused |", "|---|---|---|---|"]
    for title, rows in sections.items():
        statuses = [status.partition(",")[0].strip("*") for _, status, _ in rows]
        lines.append(
            f"| {title} | {' | '.join(str(statuses.count(s)) for s in ('same', 'better', 'refused'))} |"
        )
    return "\n".join([*lines, ""])


def named_row(name: str, key: str | None = None) -> Row:
    """A name that is honoured: the same, better, or elsewhere."""
    key = name if key is None else key
    if key in DIFFERENCES:
        return name, "*better*", DIFFERENCES[key].what
    return name, "*same*", ELSEWHERE[key].what if key in ELSEWHERE else ""


def constructor_row(name: str) -> Row:
    """An argument of the constructor."""
    assert name in inspect.signature(Trainer.__init__).parameters, name
    return named_row(name, f"Trainer({name})")


def public_methods() -> list[str]:
    """Methods without an underscore, of ``transformers.Trainer`` and here."""
    here = {name for kind in Trainer.__mro__[:-1] for name in vars(kind) if not name.startswith("_")}
    here = {name for name in here if callable(getattr(Trainer, name))}
    return sorted(here | {name for name in NEVER_CALLED if not name.startswith("_")})


def private_methods() -> list[str]:
    """Methods with an underscore that ``transformers.Trainer`` has."""
    return sorted({*OVERRIDABLE, *(name for name in NEVER_CALLED if name.startswith("_"))})


OVERRIDABLE = (
    "_determine_best_metric",
    "_evaluate",
    "_finish_current_push",
    "_get_output_dir",
    "_get_collator_with_removed_columns",
    "_get_dataloader",
    "_get_eval_sampler",
    "_get_learning_rate",
    "_get_num_items_in_batch",
    "_get_train_sampler",
    "_hp_search_setup",
    "_load_best_model",
    "_load_callback_state",
    "_load_from_checkpoint",
    "_load_optimizer_and_scheduler",
    "_load_rng_state",
    "_load_scaler",
    "_move_model_to_device",
    "_prepare_input",
    "_prepare_inputs",
    "_push_from_checkpoint",
    "_remove_unused_columns",
    "_report_to_hp_search",
    "_save",
    "_save_checkpoint",
    "_save_optimizer_and_scheduler",
    "_save_rng_state",
    "_save_scaler",
    "_set_signature_columns_if_needed",
    "_validate_args",
)
"""Methods with an underscore that are called as ``transformers.Trainer`` calls them."""


def method_row(name: str) -> Row:
    """A method."""
    if is_implemented(Trainer, name):
        note = f"Overriding it is an error. {NEVER_CALLED[name].do}" if name in ONLY_FOR_USERS else ""
        row = named_row(name, f"Trainer.{name}")
        return (row[0], row[1], note or row[2])
    entry = NEVER_CALLED[name]
    return name, "*refused*", f"{sentence(entry.why)} {entry.do}"


SEQ2SEQ_METHODS = ("evaluate", "load_generation_config", "predict", "prediction_step")
"""What ``transformers.Seq2SeqTrainer`` has of its own."""


def seq2seq_row(name: str) -> Row:
    """A method of the Seq2SeqTrainer."""
    assert hasattr(Seq2SeqTrainer, name), name
    return named_row(name, f"Seq2SeqTrainer.{name}")


def argument_names(kind: type) -> list[str]:
    """The fields of a class of arguments, by name."""
    return sorted(field.name for field in fields(kind))


def seq2seq_names() -> list[str]:
    """What ``Seq2SeqTrainingArguments`` adds."""
    return sorted(
        set(argument_names(transformers.Seq2SeqTrainingArguments))
        - set(argument_names(transformers.TrainingArguments))
    )


def field_row(name: str) -> Row:
    """An argument."""
    rule = FIELDS.get(name)
    if not isinstance(rule, Refusal):
        assert rule is not None or name in argument_names(Seq2SeqTrainingArguments), name
        return named_row(name)
    asked = [value for value in rule.allowed if value not in (None, False, "", [], {})]
    status = f"*refused*, except {' and '.join(f'`{value!r}`' for value in asked)}" if asked else "*refused*"
    return name, status, f"{sentence(rule.why)} {rule.do}"


def event_row(name: str) -> Row:
    """An event of callbacks."""
    rule = FIELDS["push_to_hub"]
    if name == "on_push_begin" and isinstance(rule, Refusal):
        return name, "*refused*", f"Never comes: {rule.why}."
    return named_row(name)


def optimizer_row(name: str) -> Row:
    """A name of ``optim``."""
    if name in catalogue.REFUSED:
        return name, "*refused*", sentence(catalogue.REFUSED[name])
    catalogue.look_up(name)
    return named_row(name, f"optim={name}")


def alias_row(alias: Alias) -> Row:
    """A name of an earlier version."""
    if alias.refusal:
        allowed = ", ".join(f"`{value!r}`" for value in alias.harmless or ())
        return alias.name, f"*refused*, except {allowed}", f"It {alias.refusal}"
    for field, value in alias.translate(_SAMPLES[alias.kind]).items():
        rule = FIELDS[field]
        if isinstance(rule, Refusal) and not rule.allows(value):
            return alias.name, "*refused*", f"As `{field}`: {rule.why}. {rule.do}"
    return alias.name, "*same*", sentence(alias.hint)


_SAMPLES: dict[type, Any] = {bool: True, int: 2, float: 0.5, str: "something"}
"""A value that asks for something, by the type of an earlier name."""


def own_names() -> str:
    """What ``transformers`` does not have."""
    theirs = {*argument_names(transformers.Seq2SeqTrainingArguments)}
    arguments = [f"`{name}`" for name in FIELDS if name not in theirs]
    parts = ["Arguments of the constructor:", ""]
    parts += [f"- `{name}`: {what}" for name, what in _OURS.items()]
    return "\n".join([*parts, "", f"`TrainingArguments`: {', '.join(arguments)}.", ""])


def sentence(text: str) -> str:
    """A clause as a sentence."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def main(arguments: list[str]) -> None:
    """Write the page to the path that was given, or to docs/."""
    path = Path(arguments[0]) if arguments else PAGE
    path.write_text(page(), encoding="utf-8")
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main(sys.argv[1:])
