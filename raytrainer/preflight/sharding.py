"""Whether the model can be sharded as FSDP or DeepSpeed was asked to, as far as a driver can know.

A model that is made on the workers is checked there.
"""

from __future__ import annotations

from torch import nn

from raytrainer.backends.deepspeed import check_installed
from raytrainer.backends.sharding_units import check_sharding as check_units
from raytrainer.dialects.deepspeed_auto import check_sizes
from raytrainer.preflight.facts import TrainerFacts


def check_sharding(facts: TrainerFacts) -> None:
    """Check what ``fsdp`` and ``deepspeed`` ask of the model.

    Raises:
        ConfigurationError: If DeepSpeed is missing, or the model cannot be sharded this way.
    """
    args = facts.args
    if args.zero is not None:
        check_installed()
        if isinstance(facts.model, nn.Module):
            check_sizes(args.zero, facts.model)
    if args.sharding is not None:
        check_units(args, args.sharding, facts.model, has_optimizer=facts.optimizers[0] is not None)
