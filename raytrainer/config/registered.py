"""Names of optimizers that users have registered in this process.

The catalogue (``raytrainer.optim``) builds them; arguments only have to know that such a name is no mistake.
"""

from __future__ import annotations

OPTIMIZERS: set[str] = set()
