"""Names of optimizers that the anchor does not have: our own, and those that users register in this process.

The catalogue (``raytrainer.optim``) builds them; arguments only have to know that such a name is no mistake.
"""

from __future__ import annotations

OPTIMIZERS: set[str] = {"muon"}
