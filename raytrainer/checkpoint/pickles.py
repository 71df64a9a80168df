"""Pickles of a checkpoint that could run code: found before anything is loaded, and what is said about them.

Hashes say that files are as their manifest lists them, and not who wrote both. A pickle with objects that torch does
not read with ``weights_only`` is refused wherever it is read. Here a checkpoint with one counts as damaged, so that the
one before it is taken. Torch's own message advises to switch the check off, which nobody should do with such a file.
"""

from __future__ import annotations

import re
from pathlib import Path

from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.errors import CheckpointError

_READ = re.compile(
    r"(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth|(pytorch|adapter)_model(-\d+-of-\d+)?\.bin"
)
"""The files that are read with torch.load."""
_REFUSED = re.compile(r"(?:Unsupported (?:global|class|operand)|GLOBAL|type):?\s+(?:GLOBAL\s+)?([\w.]+)")


def check_pickles(checkpoint: Path) -> None:
    """Check the pickles that the manifest of a verified checkpoint lists, without reading a tensor.

    Raises:
        CheckpointError: Names the first file that would be refused, and what it holds.
    """
    for name in read_manifest(checkpoint).files:
        if _READ.fullmatch(name):
            _check(checkpoint / name)


def _check(path: Path) -> None:
    # They import torch, which scans need not.
    from raytrainer.checkpoint.state_files import allowed_objects
    from raytrainer.checkpoint.torch_files import refused_objects

    try:
        refused = refused_objects(path, allowed_objects())
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as what torch.save wrote: {cause_of(error)}") from error
    if refused:
        raise CheckpointError(f"{path} {_holds(', '.join(sorted(refused)[:3]))}")


def cause_of(error: BaseException) -> str:
    """Why torch could not read a file, without its advice to read it anyway."""
    text = str(error)
    if "weights_only" not in text and "Weights only" not in text:
        return text
    found = _REFUSED.search(text)
    return f"it {_holds(found[1])}" if found else "it is no pickle of tensors and plain values"


def _holds(what: str) -> str:
    return (
        f"holds {what}, which is not read: a file with such objects can run code when it is opened. Do not use it "
        "unless you know who wrote it."
    )
