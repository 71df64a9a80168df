"""Scripts like those that people bring: only their import is swapped, in process and on two Ray workers.

They use what Hugging Face's example scripts use: metrics of `evaluate`, files and subclasses beside the script, own
signatures of `evaluate`, generation, and files that are written in the end.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.clients.tiny import Result, make_metrics, make_models, own_caches, swap_imports

SCRIPTS = Path(__file__).parent / "scripts"
TEXT = [
    f"The {one} crossed the {other} before the {part} of the day began."
    for one in ("ferry", "train", "caravan", "river")
    for other in ("bridge", "border", "valley")
    for part in ("first", "second")
]
TASKS = {
    "classify_pairs": "pairs.csv",
    "answer_questions": "questions.json",
    "tag_words": "words.json",
    "continue_text": "lines.txt",
    "translate_lines": "translations.json",
}
METRICS = ("accuracy", "squad", "seqeval", "sacrebleu")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with models, data, metrics, and the scripts as they are and with their import swapped."""
    directory = tmp_path_factory.mktemp("sandbox")
    make_models(TEXT, directory)
    make_metrics(METRICS, directory)
    rows = ["sentence1,sentence2,label", *(f"{one},{TEXT[-at]},{at % 2}" for at, one in enumerate(TEXT))]
    (directory / "pairs.csv").write_text("\n".join(rows))
    (directory / "lines.txt").write_text("\n".join(TEXT))
    questions = [
        {
            "id": str(at),
            "question": "What crossed?",
            "context": text,
            "answers": {"text": [text.split()[1]], "answer_start": [4]},
        }
        for at, text in enumerate(TEXT)
    ]
    (directory / "questions.json").write_text(json.dumps({"data": questions}))
    words = [{"words": text.split(), "tags": ["O", "B", *["O"] * (len(text.split()) - 2)]} for text in TEXT]
    (directory / "words.json").write_text("\n".join(map(json.dumps, words)))
    pairs = [{"translation": {"en": text, "de": text[::-1]}} for text in TEXT]
    (directory / "translations.json").write_text("\n".join(map(json.dumps, pairs)))
    for kind, edit in (("stock", str), ("swapped", swap_imports)):
        (directory / kind).mkdir()
        for script in SCRIPTS.glob("*.py"):
            (directory / kind / script.name).write_text(edit(script.read_text()))
    return directory


def run(name: str, sandbox: Path, *, kind: str, batch: int, num_workers: int | None = None) -> Result:
    """Run a script as `python script.py` does."""
    output = sandbox / f"{name}-{kind}-{num_workers}"
    words = f"--train_file {TASKS[name]} --output_dir {output} --max_steps 3 --seed 7 --per_device_eval_batch_size 4"
    words += (
        f" --per_device_train_batch_size {batch} --learning_rate 0.1 --lr_scheduler_type constant --use_cpu"
    )
    # AdamW makes steps as long as the learning rate from what rounding leaves of gradients that are zero.
    words += " --optim sgd"
    words += " --save_strategy no --report_to none --disable_tqdm true"
    if num_workers is not None:
        words += f" --num_workers {num_workers}"
    if name == "translate_lines":
        words += " --predict_with_generate --generation_max_length 12"
    script = sandbox / kind / f"{name}.py"
    with own_caches(sandbox), pytest.MonkeyPatch.context() as patch:
        patch.chdir(sandbox)
        patch.setattr(sys, "argv", [str(script), *words.split()])
        sys.path.insert(0, str(script.parent))
        runpy.run_path(str(script), run_name="__main__")
    return Result(output)


@pytest.fixture(scope="module", params=TASKS)
def stock(sandbox: Path, request: pytest.FixtureRequest) -> tuple[str, Result]:
    """A script's name, and what it saves with transformers' own Trainer."""
    return request.param, run(request.param, sandbox, kind="stock", batch=4)


@pytest.mark.slow
def test_in_process_a_script_ends_with_the_weights_of_transformers(sandbox, stock):
    name, theirs = stock
    mine = run(name, sandbox, kind="swapped", batch=4, num_workers=0)
    assert mine.difference(theirs) == 0
    assert mine.numbers.keys() >= theirs.numbers.keys() - {"total_flos"}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(240)
def test_on_two_workers_a_script_ends_with_the_weights_of_transformers(sandbox, stock):
    name, theirs = stock
    mine = run(name, sandbox, kind="swapped", batch=2, num_workers=2)
    assert mine.difference(theirs) < 1e-5
    assert mine.numbers.keys() >= theirs.numbers.keys() - {"total_flos"}
    for name in theirs.numbers.keys() & {"eval_accuracy", "eval_f1", "eval_bleu", "eval_exact_match"}:
        assert mine.numbers[name] == pytest.approx(theirs.numbers[name], abs=1e-6)


def test_only_names_that_raytrainer_has_are_swapped():
    source = (
        "from transformers import (\n    AutoModel,\n    Trainer,\n    TrainingArguments,\n)\nTrainer()\n"
    )
    assert swap_imports(source) == (
        "from raytrainer import Trainer, TrainingArguments\nfrom transformers import AutoModel\nTrainer()\n"
    )
