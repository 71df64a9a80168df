"""What a fork server imports: what every worker does. The driver adds what the trainer of these workers names."""

from __future__ import annotations

EACH_WORKER = ("raytrainer.worker.train_task", "raytrainer.worker.session", "torch.nn.parallel")
"""What every worker imports."""
STATE = "state.json"
"""File in the server's directory that says what became of it."""
OF_RAY = ("pandas", "pyarrow", "pydantic", "requests", "jsonschema", "fsspec", "google.protobuf", "uvloop")
"""What Ray Train imports and is not Ray."""


def may_be_forked(name: str) -> bool:
    """Whether a process that has imported a module can be forked; Ray's library has connections that cannot.

    Args:
        name: Of the module.
    """
    return name.partition(".")[0] != "ray"
