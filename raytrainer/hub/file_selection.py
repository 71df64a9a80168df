"""Which files are uploaded, where they go in the repository, and which files there an upload replaces.

In the repository, the folder of a checkpoint holds that checkpoint and nothing else, and the root has the weights of
one model only; other files there are left alone.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from transformers.trainer_utils import HubStrategy

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.checkpoint.names import ARGUMENTS_NAME, LAST_CHECKPOINT_NAME
from raytrainer.checkpoint.ownership import EARLIER_RUNS
from raytrainer.checkpoint.snapshot import files_below
from raytrainer.hub.card import CARD_NAME
from raytrainer.telemetry.bucket_records import FOLDER as RECORD_FOLDER
from raytrainer.telemetry.run_files import RECORD_NAMES

TENSORBOARD_DIRECTORY = "runs"
"""TensorBoard's directory in the output directory."""

_EXCLUDED = (
    "_*",
    "checkpoint-*",
    f"{LAST_CHECKPOINT_NAME}/*",
    "logs/*",
    *RECORD_NAMES,
    f"{RECORD_FOLDER}/*",
    f"{EARLIER_RUNS}/*",
    "training_args.bin",
    ARGUMENTS_NAME,
)
"""What ``push_to_hub`` leaves out of an output directory: the two patterns of transformers, a checkpoint that was
downloaded, the log files and the record of a run, checkpoints of earlier runs, and arguments: the pickle in which
transformers stores them with the token, and the JSON file with the paths of this machine."""
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")


def is_weights_file(path: str) -> bool:
    """Whether a path in a repository is a weights file, or the index of sharded ones, in its root."""
    return _WEIGHTS.fullmatch(path) is not None


def checkpoint_folder(args: TrainingArguments, checkpoint: Path) -> str | None:
    """The folder of the repository that a whole checkpoint goes to; None if only its model is uploaded."""
    if args.hub_strategy == HubStrategy.CHECKPOINT:
        return LAST_CHECKPOINT_NAME
    return checkpoint.name if args.hub_strategy == HubStrategy.ALL_CHECKPOINTS else None


def is_replaced_by_checkpoint(path: str, folder: str | None) -> bool:
    """Whether a file of the repository is deleted if a checkpoint that is uploaded does not contain it.

    Args:
        path: Path in the repository.
        folder: The folder that the checkpoint goes to; None if only its model is uploaded.
    """
    return is_weights_file(path) or (folder is not None and path.startswith(f"{folder}/"))


def companion_files(output_dir: Path) -> dict[str, Path]:
    """The files of an output directory that go with each checkpoint: the model card and TensorBoard's files."""
    board = files_below(output_dir / TENSORBOARD_DIRECTORY)
    files = {f"{TENSORBOARD_DIRECTORY}/{name}": path for name, path in board.items()}
    if (output_dir / CARD_NAME).is_file():
        files[CARD_NAME] = output_dir / CARD_NAME
    return files


def exported_files(output_dir: Path) -> dict[str, Path]:
    """The files of an output directory that ``push_to_hub`` uploads, by their relative paths."""
    return {name: path for name, path in files_below(output_dir).items() if is_exported(name)}


def is_exported(name: str) -> bool:
    """Whether ``push_to_hub`` uploads a file of an output directory, by its path in it."""
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return not is_hidden and not any(fnmatch.fnmatchcase(name, pattern) for pattern in _EXCLUDED)
