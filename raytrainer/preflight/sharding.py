"""Whether the model can be sharded as the arguments ask, as far as a driver can know.

A model that is made on the workers is checked there.
"""

from __future__ import annotations

from raytrainer.backends.choose import check_before_workers
from raytrainer.preflight.facts import TrainerFacts


def check_sharding(facts: TrainerFacts) -> None:
    """Check that the backend is installed and can shard the model.

    Raises:
        ConfigurationError: If it is not, or cannot.
    """
    check_before_workers(facts.args, facts.model, has_optimizer=facts.optimizers[0] is not None)
