"""The snippets of the Hugging Face Trainer guide run with only the import changed, and log what it says.

The guide's text is no part of this project: RAYTRAINER_GUIDE names the file, else it is looked for beside the checkout.
The text lost the indentation of class bodies, which ``INDENTED`` gives back; ``CHANGES`` holds what a test without a
network and a GPU must change. Both assert that the lines they replace are there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

import raytrainer
from raytrainer.arguments.placement import Placement
from raytrainer.arguments.supported_fields import FIELDS, Refusal
from tests.hub.server import TOKEN, Hub, client_points_at

BESIDE = Path(__file__).parents[3] / "shared" / "reference" / "guide" / "trainer-guide.ko.txt"
GUIDE = Path(os.environ.get("RAYTRAINER_GUIDE", BESIDE))
if not GUIDE.is_file():
    pytest.skip("the guide's text is not here; name it in RAYTRAINER_GUIDE", allow_module_level=True)
TEXT = GUIDE.read_text(encoding="utf-8")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
HANGUL = re.compile("[\uac00-\ud7a3]")
needs_sft = pytest.mark.skipif(
    not hasattr(raytrainer, "SFTTrainer"), reason="there is no raytrainer.SFTTrainer"
)

STARTS = re.compile(r"^(from \w+ import |import \w+$|logger = |trainer\.train\(resume)")
INDENTED = {
    "def compute_loss(self,": 4,
    "model, inputs, return_outputs=False):": 8,
    'labels = inputs.pop("labels")': 8,
    "outputs = model(**inputs)": 8,
    'logits = outputs.get("logits")': 8,
    "loss_fct = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], device=model.device))": 8,
    "loss = loss_fct(logits.view(-1, self.model.config.num_labels), labels.view(-1))": 8,
    "return (loss, outputs) if return_outputs else loss": 8,
    "def __init__(self, num_steps=10):": 4,
    "self.num_steps = num_steps": 8,
    "def on_step_end(self, args, state, control, **kwargs):": 4,
    "if state.global_step >= self.num_steps:": 8,
    'return {"should_training_stop": True}': 12,
    "else:": 8,
    "return {}": 12,
}
"""Lines of the two class bodies -> their indentation [spaces]."""
OURS = {"Trainer", "TrainingArguments"}
HERE = "num_workers=0, use_cpu=True, report_to='none', disable_tqdm=True"


def snippets() -> list[str]:
    """The Python snippets of the guide in order: blocks of lines without prose; comments do not count."""
    found: list[list[str]] = []
    is_open = False
    for line in TEXT.splitlines():
        is_prose = HANGUL.search(line) is not None and not line.startswith("#")
        if is_prose:
            is_open = False
        elif is_open:
            found[-1].append(line)
        elif STARTS.match(line):
            is_open = True
            found.append([line])
    return ["\n".join(lines) + "\n" for lines in found]


def indented(code: str) -> str:
    """The class body of a snippet, with its indentation."""
    lines = code.splitlines()
    assert {line for line in lines if line in INDENTED}, "the class has the lines of the table"
    return "\n".join(" " * INDENTED.get(line, 0) + line for line in lines) + "\n"


def imported(code: str) -> str:
    """The change that a user makes: import these names from raytrainer."""

    def split(match: re.Match[str]) -> str:
        names = [name.strip() for name in match[1].split(",")]
        homes = [("raytrainer" if name in OURS else "transformers", name) for name in names]
        return "; ".join(f"from {home} import {name}" for home, name in homes)

    return re.sub(r"^from transformers import (.+)$", split, code, flags=re.MULTILINE)


def changed(code: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in code, f"the guide no longer says {old!r}"
        code = code.replace(old, new)
    return imported(code)


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, "the guide", "exec"), names)
    return names


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "a", "very", "good", "bad", "plain", "film", "day"]
    vocabulary = {word: index for index, word in enumerate(words)}
    description = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    path = Path("words.json")  # each test has a working directory of its own
    path.write_text(json.dumps(description))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path), pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]"
    )


def tweets(count: int) -> Dataset:
    kinds = ["a very bad film", "a plain day", "a good day"]
    rows = [{"text": kinds[index % 3], "labels": index % 3} for index in range(count)]
    return Dataset.from_list(rows)


def make_classifier() -> transformers.BertForSequenceClassification:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def count_right(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local Hub server that the guide's model is pushed to."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with (
        Hub(lfs_suffixes=(".safetensors", ".pt", ".pth")) as server,
        client_points_at(server.url, monkeypatch),
    ):
        yield server


@pytest.fixture
def names(hub: Hub) -> dict[str, Any]:
    """What the guide assumes: a model, data, a tokenizer, a collator, metrics, and imports."""
    tokenizer = make_tokenizer()
    data = {
        name: tweets(count).map(lambda row: tokenizer(row["text"]))
        for name, count in (("train", 96), ("test", 12))
    }
    given = {
        "model": make_classifier(),
        "dataset": data,
        "tokenizer": tokenizer,
        "data_collator": DataCollatorWithPadding(tokenizer),
        "compute_metrics": count_right,
        "torch": torch,
        "transformers": transformers,
        "logging": logging,
        "sys": sys,
        "datasets": sys.modules["datasets"],
    }
    changes = {'output_dir="your-model",': f'output_dir="your-model", {HERE},'}
    return run(changed(snippets()[0], changes), given)


def test_the_guide_has_twelve_snippets() -> None:
    assert len(snippets()) == 12


def test_basic_use_trains_evaluates_loads_the_best_model_and_pushes_it(
    names: dict[str, Any], hub: Hub
) -> None:
    trainer = run(changed(snippets()[1], {}), names)["trainer"]
    assert trainer.state.global_step == 12
    assert [log["epoch"] for log in trainer.state.log_history if "eval_accuracy" in log] == [1.0, 2.0]
    assert trainer.state.best_model_checkpoint in ("your-model/checkpoint-6", "your-model/checkpoint-12")
    assert {"config.json", "model.safetensors"} <= hub.repo("your-model").names()


def test_checkpoints_resume_the_newest_and_one_that_is_named(names: dict[str, Any]) -> None:
    run(changed(snippets()[1], {}), names)
    weights = {name: value.clone() for name, value in names["model"].state_dict().items()}
    steps: list[int] = []
    code = changed(snippets()[2], {"your-model/checkpoint-1000": "your-model/checkpoint-6"})

    class Notes(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    names["trainer"].add_callback(Notes())
    run(code, names)
    assert steps == [12, 6]
    for name, value in names["model"].state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_weighted_loss_trains(names: dict[str, Any]) -> None:
    run(changed(indented(snippets()[3]), {}), names)
    assert issubclass(names["CustomTrainer"], raytrainer.Trainer)
    code = changed(snippets()[1], {"Trainer(": "CustomTrainer("})
    assert run(code, names)["trainer"].state.global_step == 12


def test_the_callback_stops_after_ten_steps(names: dict[str, Any]) -> None:
    run(changed(indented(snippets()[4]), {}), names)
    trainer = run(changed(snippets()[5], {}), names)["trainer"]
    trainer.train()
    assert trainer.state.global_step == 10
    assert trainer.state.max_steps == 12


def test_the_logging_snippet_sets_every_logger_to_the_level_of_the_arguments(names: dict[str, Any]) -> None:
    before = transformers.utils.logging.get_verbosity()
    names["training_args"].log_level = "error"
    code = changed(
        snippets()[6],
        {"Trainer(...)": "Trainer(model=model, args=training_args, eval_dataset=dataset['test'])"},
    )
    try:
        run(code, {**names, "Trainer": raytrainer.Trainer, "__name__": "the_guide"})
        assert logging.getLogger("the_guide").level == logging.ERROR
        assert transformers.utils.logging.get_verbosity() == logging.ERROR
    finally:
        transformers.utils.logging.set_verbosity(before)


@pytest.mark.parametrize(
    ("rank", "local_rank", "on_each_node", "level"),
    [
        (0, 0, True, logging.WARNING),
        (1, 1, True, logging.ERROR),
        (2, 0, True, logging.WARNING),
        (2, 0, False, logging.ERROR),
    ],
)
def test_log_levels_are_those_of_main_processes_and_replicas_on_each_node_or_on_the_first(
    rank: int, local_rank: int, on_each_node: bool, level: int
) -> None:
    line = "my_app.py ... --log_level warning --log_level_replica error"
    assert line in TEXT
    words = [*line.split()[2:], "--log_on_each_node", str(on_each_node)]
    (args,) = raytrainer.HfArgumentParser(raytrainer.TrainingArguments).parse_args_into_dataclasses(
        words, look_for_args_file=False
    )
    args.resolve(
        Placement(
            rank=rank,
            local_rank=local_rank,
            world_size=4,
            local_world_size=2,
            device=torch.device("cpu"),
            backend="gloo",
        )
    )
    assert args.get_process_log_level() == level


@pytest.mark.skipif(
    isinstance(FIELDS["neftune_noise_alpha"], Refusal), reason="neftune_noise_alpha is not available"
)
def test_neftune_adds_noise_and_leaves_the_embedding_as_it_was(names: dict[str, Any]) -> None:
    code = changed(
        snippets()[7],
        {
            "TrainingArguments(...,": f"TrainingArguments(output_dir='noisy', max_steps=2, {HERE},",
            "Trainer(..., ": "Trainer(model=model, train_dataset=dataset['train'], data_collator=data_collator, ",
        },
    )
    trainer = run(code, names)["trainer"]
    assert trainer.args.neftune_noise_alpha == 0.1
    trainer.train()
    assert trainer.state.global_step == 2
    assert not names["model"].get_input_embeddings()._forward_hooks


@pytest.fixture
def gemma(tmp_path: Path) -> str:
    """A directory with a tiny Gemma and its tokenizer."""
    config = transformers.GemmaConfig(
        vocab_size=16,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
    )
    torch.manual_seed(0)
    transformers.GemmaForCausalLM(config).save_pretrained(tmp_path / "gemma")
    make_tokenizer().save_pretrained(tmp_path / "gemma")
    return str(tmp_path / "gemma")


@needs_sft
@pytest.mark.parametrize(
    ("number", "optim", "steps"),
    [
        (8, "galore_adamw", "max_steps=100"),
        (9, "galore_adamw", "max_steps=100"),
        (10, "galore_adamw_layerwise", "max_steps=100"),
        (11, "adalomo", "max_steps=1000"),
    ],
)
def test_low_memory_optimizers_train_a_language_model(
    gemma: str, monkeypatch: pytest.MonkeyPatch, number: int, optim: str, steps: str
) -> None:
    trl = types.ModuleType("trl")
    trl.SFTTrainer = raytrainer.SFTTrainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trl", trl)
    code = changed(
        snippets()[number],
        {
            "datasets.load_dataset('imdb', split='train')": "tweets(16)",
            steps: f"max_steps=2, {HERE}",
            "google/gemma-2b": gemma,
            ".to(0)": '.to("cpu")',
        },
    )
    assert f'optim="{optim}"' in code
    trainer = run(code, {"tweets": tweets})["trainer"]
    assert trainer.state.global_step == 2
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
