"""What scripts would download, made here: tokenizers, models without dropout, metrics; and what they saved.

Without dropout, because each rank draws its own: two workers then compute what one process computes.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import evaluate
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import raytrainer

MADE = ("evaluate_modules", "transformers_modules")

# What the metrics of the Hub are called, take and return; the numbers need not be theirs.
METRIC = """
import datasets
import evaluate

text, number = datasets.Value("string"), datasets.Value("int64")
many = datasets.Sequence(text)
answer = {{"id": text, "prediction_text": text}}
right = {{"id": text, "answers": datasets.Features({{"text": many, "answer_start": datasets.Sequence(number)}})}}
FEATURES = {{
    "accuracy": (number, number),
    "seqeval": (many, many),
    "squad": (answer, right),
    "squad_v2": (answer | {{"no_answer_probability": datasets.Value("float32")}}, right),
    "sacrebleu": (text, many),
    "rouge": (text, text),
}}
RESULTS = {{
    "accuracy": ["accuracy"],
    "seqeval": ["overall_precision", "overall_recall", "overall_f1", "overall_accuracy"],
    "squad": ["exact_match", "f1"],
    "squad_v2": ["exact", "f1"],
    "sacrebleu": ["score"],
    "rouge": ["rouge1", "rougeL"],
}}


class Metric(evaluate.Metric):
    def _info(self):
        one, other = FEATURES["{name}"]
        features = datasets.Features({{"predictions": one, "references": other}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, **options):
        equal = [one == other for one, other in zip(predictions, references)]
        return dict.fromkeys(RESULTS["{name}"], sum(equal) / len(equal))
"""


def make_metrics(names: Iterable[str], directory: Path) -> None:
    """Scripts that ``evaluate.load(name)`` finds in its working directory."""
    for name in names:
        (directory / name).mkdir()
        (directory / name / f"{name}.py").write_text(METRIC.format(name=name))


def make_models(texts: list[str], directory: Path) -> None:
    """Directories ``bert``, ``gpt2`` and ``t5``, for ``from_pretrained``."""
    tokenizer = make_tokenizer(texts)
    size = len(tokenizer)
    torch.manual_seed(0)
    bert = transformers.BertConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    gpt2 = transformers.GPT2Config(
        vocab_size=size,
        n_embd=16,
        n_layer=1,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=1,
    )
    t5 = transformers.T5Config(
        vocab_size=size,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    made = {
        "bert": transformers.BertForPreTraining(bert),
        "gpt2": transformers.GPT2LMHeadModel(gpt2),
        "t5": transformers.T5ForConditionalGeneration(t5),
    }
    for name, model in made.items():
        model.save_pretrained(directory / name)
        tokenizer.save_pretrained(directory / name)


def make_tokenizer(texts: list[str]) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens of all the models."""
    special = ["<pad>", "</s>", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@contextlib.contextmanager
def own_caches(directory: Path) -> Iterator[None]:
    """Inside the block, modules that libraries make go to a directory; afterwards what was imported is forgotten."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(directory / "modules"))
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(directory / "modules"))
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(directory / "metrics"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(directory / "datasets"))
        try:
            yield
        finally:
            made = set(sys.modules) - before
            for name in made:
                if name.startswith(MADE) or is_below(sys.modules[name], directory):
                    del sys.modules[name]


def is_below(module: object, directory: Path) -> bool:
    return str(getattr(module, "__file__", None)).startswith(str(directory))


def swap_imports(source: str) -> str:
    """Import from raytrainer what it has of the names that are imported from transformers."""
    lines = source.splitlines(keepends=True)
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    for node in reversed(imports):
        names = [alias.name for alias in node.names]
        mine = [name for name in names if name in raytrainer.__all__]
        if node.module == "transformers" and mine:
            rest = [name for name in names if name not in mine]
            swapped = [f"from raytrainer import {', '.join(mine)}\n"]
            swapped += [f"from transformers import {', '.join(rest)}\n"] if rest else []
            lines[node.lineno - 1 : node.end_lineno] = swapped
    return "".join(lines)


class Result:
    """What a script saved."""

    def __init__(self, directory: Path) -> None:
        self.weights = load_file(directory / "model.safetensors")
        self.numbers: dict[str, float] = {}
        for file in directory.glob("*_results.json"):
            self.numbers |= json.loads(file.read_text())

    def difference(self, other: Result) -> float:
        """The largest difference of two weights."""
        assert self.weights.keys() == other.weights.keys()
        pairs = ((weight, other.weights[name]) for name, weight in self.weights.items())
        return max(float((one - two).abs().max()) for one, two in pairs)
