"""Saves beside training: one copy of the state in host memory, and a process of its own that writes it."""

WRITES_CHECKPOINTS = frozenset(
    {
        "_save",
        "_save_checkpoint",
        "_save_optimizer_and_scheduler",
        "_save_rng_state",
        "_save_scaler",
        "save_model",
    }
)
"""Hooks whose override may read what a save has written; those files are empty until the process has written them."""
