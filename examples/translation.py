"""Train a small encoder-decoder to translate, on two Ray workers, and print some translations.

python examples/translation.py                                   # messages of installed programs, offline
python examples/translation.py --language fr --max_steps 3000    # longer, for better French
python examples/translation.py --model google-t5/t5-small --data wmt/wmt16:de-en --learning_rate 3e-4
"""

import argparse
import gettext
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from tokenizers import SentencePieceBPETokenizer

from raytrainer import EvalPrediction, Seq2SeqTrainer, Seq2SeqTrainingArguments

# isort: split
# After raytrainer, because models import libraries that tell what they lack on this machine.
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)


def read_catalogues(directory: str, language: str) -> dict[str, str]:
    """Short English messages of installed programs and their translations, from gettext's .mo files."""
    pairs: dict[str, str] = {}
    for file in sorted(Path(directory).rglob(f"{language}/LC_MESSAGES/*.mo")):
        try:
            with file.open("rb") as stream:
                messages = vars(gettext.GNUTranslations(stream))["_catalog"]
        except (OSError, UnicodeDecodeError):  # a catalogue in an old encoding
            continue
        pairs |= {
            english: other
            for english, other in messages.items()
            if isinstance(english, str)
            and english.isprintable()
            and 3 < len(english) <= 40
            and other != english
        }
    if len(pairs) < 500:
        raise SystemExit(
            f"{len(pairs)} messages for {language!r} under {directory}. Name another --language, another directory "
            "as --data (Django's package has such files, for example), or a dataset on the Hub."
        )
    return pairs


def read_pairs(data: str, language: str, limit: int) -> Dataset:
    """Rows with ``source`` and ``target``, shuffled."""
    if Path(data).is_dir():
        pairs = read_catalogues(data, language)
        rows = Dataset.from_dict({"source": list(pairs), "target": list(pairs.values())}).shuffle(seed=0)
        return rows.select(range(min(limit, len(rows))))
    name, _, config = data.partition(":")
    rows = load_dataset(name, config or None, split=f"train[:{limit}]").shuffle(seed=0)
    return rows.map(lambda row: {"source": row["translation"]["en"], "target": row["translation"][language]})


def small_model(rows: Dataset) -> tuple[Any, Any]:
    """An untrained T5 of one million parameters, and a tokenizer trained on the rows."""
    words = SentencePieceBPETokenizer()
    specials = ["<pad>", "</s>", "<unk>"]
    texts = rows["source"][:] + rows["target"][:]
    words.train_from_iterator(texts, vocab_size=1000, special_tokens=specials, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words._tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = T5Config(
        vocab_size=len(tokenizer), d_model=128, d_kv=32, d_ff=512, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5ForConditionalGeneration(config), tokenizer


def chrf(found: str, wanted: str) -> float:
    """Score a sentence by chrF (Popović 2015): F2 of character 1- to 6-grams, 0 to 100."""
    scores = []
    for n in range(1, 7):
        a, b = (Counter(t[i : i + n] for i in range(len(t) - n + 1)) for t in (found, wanted))
        if b:
            same = sum((a & b).values())
            precision, recall = same / max(sum(a.values()), 1), same / sum(b.values())
            scores.append(5 * precision * recall / max(4 * precision + recall, 1e-9))
    return 100 * float(np.mean(scores)) if scores else 0.0


def main() -> None:
    """Tokenize, train, translate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id or path; a small untrained T5 by default")
    parser.add_argument(
        "--data", default="/usr/share/locale", help="directory of .mo files, or hub name[:config]"
    )
    parser.add_argument("--language", default="de")
    parser.add_argument("--num_pairs", type=int, default=8000)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=32, help="per worker")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--output_dir", default="runs/translation")
    options = parser.parse_args()

    rows = read_pairs(options.data, options.language, options.num_pairs)
    if options.model:
        model = AutoModelForSeq2SeqLM.from_pretrained(options.model)
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    else:
        model, tokenizer = small_model(rows)

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        made = {}
        for name, texts in (("input_ids", batch["source"]), ("labels", batch["target"])):
            made[name] = [
                [*ids[:31], tokenizer.eos_token_id]
                for ids in tokenizer(texts, add_special_tokens=False).input_ids
            ]
        return made

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        found, wanted = decode(prediction.predictions), decode(prediction.label_ids)
        return {"chrf": float(np.mean([chrf(*pair) for pair in zip(found, wanted, strict=True)]))}

    def decode(ids: Any) -> list[str]:
        return tokenizer.batch_decode(
            np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True
        )

    data = rows.map(tokenize, batched=True)
    test, train = data.select(range(100)), data.select(range(100, len(data)))
    args = Seq2SeqTrainingArguments(
        output_dir=options.output_dir,
        num_workers=options.num_workers,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=50,
        learning_rate=options.learning_rate,
        warmup_steps=20,
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=200,
        save_strategy="no",
        predict_with_generate=True,
        generation_max_length=32,
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        compute_metrics=metrics,
    )
    trainer.train()
    output = trainer.predict(test, num_beams=4)
    print(f"chrF {output.metrics['test_chrf']:.1f} on {len(test)} held-out messages")
    for source, found, wanted in list(
        zip(test["source"], decode(output.predictions), test["target"], strict=True)
    )[:8]:
        print(f"  {source}\n    output    {found}\n    reference {wanted}")
    trainer.save_model(f"{options.output_dir}/model")
    trainer.end()


if __name__ == "__main__":
    main()
