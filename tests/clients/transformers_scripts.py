"""Hugging Face's example scripts on a machine without network: their import swapped, tiny models, local metrics.

The scripts, their helper modules and their sample data are read from a checkout of transformers, and only the names in
their import statements change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.clients.tiny import Result, make_metrics, make_models, swap_imports

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")


@dataclass(frozen=True)
class Script:
    """One of the scripts, and its words."""

    path: str
    model: str
    words: str
    """``{samples}``: directory of the checkout's samples."""
    metrics: tuple[str, ...] = ()


SCRIPTS = {
    "glue": Script(
        "text-classification/run_glue.py",
        "bert",
        "--train_file pairs.csv --validation_file pairs.csv --max_seq_length 48",
        ("accuracy",),
    ),
    "classification": Script(
        "text-classification/run_classification.py",
        "bert",
        "--train_file pairs.csv --validation_file pairs.csv --max_seq_length 48 "
        "--text_column_names sentence1,sentence2 --label_column_name label",
        ("accuracy",),
    ),
    "clm": Script(
        "language-modeling/run_clm.py",
        "gpt2",
        "--train_file {samples}/../sample_text.txt --validation_file {samples}/../sample_text.txt --block_size 32",
        ("accuracy",),
    ),
    "mlm": Script(
        "language-modeling/run_mlm.py",
        "bert",
        "--train_file {samples}/../sample_text.txt --validation_file {samples}/../sample_text.txt "
        "--max_seq_length 32",
        ("accuracy",),
    ),
    "qa": Script(
        "question-answering/run_qa.py",
        "bert",
        "--train_file {samples}/SQUAD/sample.json --validation_file {samples}/SQUAD/sample.json "
        "--version_2_with_negative --max_seq_length 192 --doc_stride 32",
        ("squad", "squad_v2"),
    ),
    "seq2seq_qa": Script(
        "question-answering/run_seq2seq_qa.py",
        "t5",
        "--train_file {samples}/SQUAD/sample.json --validation_file {samples}/SQUAD/sample.json "
        "--version_2_with_negative --max_seq_length 192 --doc_stride 32 --max_answer_length 16 "
        "--predict_with_generate --context_column context --question_column question --answer_column answers",
        ("squad", "squad_v2"),
    ),
    "swag": Script(
        "multiple-choice/run_swag.py",
        "bert",
        "--train_file {samples}/swag/sample.json --validation_file {samples}/swag/sample.json --max_seq_length 48",
    ),
    "ner": Script(
        "token-classification/run_ner.py",
        "bert",
        "--train_file {samples}/conll/sample.json --validation_file {samples}/conll/sample.json",
        ("seqeval",),
    ),
    "translation": Script(
        "translation/run_translation.py",
        "t5",
        "--train_file {samples}/wmt16/sample.json --validation_file {samples}/wmt16/sample.json --source_lang en "
        "--target_lang ro --max_source_length 32 --max_target_length 16 --predict_with_generate "
        "--val_max_target_length 16",
        ("sacrebleu",),
    ),
    "summarization": Script(
        "summarization/run_summarization.py",
        "t5",
        "--train_file {samples}/xsum/sample.json --validation_file {samples}/xsum/sample.json "
        "--max_source_length 48 --max_target_length 16 --predict_with_generate --val_max_target_length 16",
        ("rouge",),
    ),
}
# AdamW makes steps as long as the learning rate from what rounding leaves of gradients that are zero.
COMMON = (
    "--do_train --do_eval --max_steps 2 --logging_steps 1 --seed 7 --optim sgd --learning_rate 0.1 "
    "--lr_scheduler_type constant --save_strategy no --use_cpu --report_to none"
)

NLTK = """
class data:
    @staticmethod
    def find(name):
        return name


def sent_tokenize(text):
    return text.split(". ")
"""


class Sandbox:
    """A working directory with all that the scripts would otherwise download.

    Args:
        checkout: Of transformers.
        directory: Empty, and owned by this object.
    """

    def __init__(self, checkout: Path, directory: Path) -> None:
        self.samples = checkout / "tests" / "fixtures" / "tests_samples"
        self.directory = directory
        for kind, swaps in (("stock", False), ("swapped", True)):
            shutil.copytree(checkout / "examples" / "pytorch", directory / kind)
            for script in SCRIPTS.values():
                for file in (directory / kind / script.path).parent.glob("*.py"):
                    if swaps:
                        file.write_text(swap_imports(file.read_text()))
        make_metrics({metric for script in SCRIPTS.values() for metric in script.metrics}, directory)
        (directory / "modules").mkdir()
        (directory / "modules" / "nltk.py").write_text(NLTK)
        pairs = (self.samples / "MRPC" / "train.csv").read_text()
        # `datasets` no longer turns a column of words into one of numbers, which the scripts rely on.
        numbers = pairs.replace("\nnot_equivalent,", "\n0,").replace("\nequivalent,", "\n1,")
        head, *rows = numbers.splitlines()
        # Two full batches of four: two ranks fill up a smaller one, in transformers too.
        (directory / "pairs.csv").write_text("\n".join([head, *(rows * 4)[:12]]) + "\n")
        files = [file for file in self.samples.rglob("*") if file.suffix in (".json", ".csv", ".txt")]
        make_models([file.read_text() for file in files], directory)

    def run(
        self, name: str, *, kind: str, batch: int, num_workers: int | None = None, ranks: int = 1
    ) -> Result:
        """Run a script to its end, and read what it saved.

        Args:
            name: Of the script.
            kind: ``stock`` or ``swapped``.
            batch: Samples for one process in one step.
            num_workers: Asked for by a flag; left out by default.
            ranks: Processes that torchrun starts, if more than one.
        """
        script = SCRIPTS[name]
        output = self.directory / f"{name}-{kind}-{num_workers}-{ranks}"
        words = [*COMMON.split(), *script.words.format(samples=self.samples).split()]
        words += ["--model_name_or_path", script.model, "--output_dir", str(output)]
        words += ["--per_device_train_batch_size", str(batch), "--per_device_eval_batch_size", "4"]
        if num_workers is not None:
            words += ["--num_workers", str(num_workers)]
        launcher = [*TORCHRUN, f"--nproc_per_node={ranks}"] if ranks > 1 else []
        done = subprocess.run(
            [sys.executable, *launcher, str(self.directory / kind / script.path), *words],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.directory / "modules")]),
                "HF_HOME": str(self.directory / "hf"),
                "HF_HUB_OFFLINE": "1",
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return Result(output)
