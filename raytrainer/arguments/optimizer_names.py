"""Names of optimizers that transformers does not have: our own, and those that users register in this process.

The catalog (``raytrainer.optim``) builds them; the arguments only need to accept their names.
"""

from __future__ import annotations

OPTIMIZERS: set[str] = {"muon"}
