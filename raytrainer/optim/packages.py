"""Which packages optional optimizers come from: the pip requirement that an error names."""

from __future__ import annotations

BITSANDBYTES = "bitsandbytes>=0.50"
OPTIMI = "torch-optimi>=0.3"
SCHEDULE_FREE = "schedulefree>=1.4"
TORCHAO = "torchao>=0.11"
