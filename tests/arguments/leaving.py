"""Two ranks of a launcher join and leave; each appends when it was done, and when its process ended, to a file.

Usage: leaving.py DIRECTORY
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path

from raytrainer import TrainingArguments
from raytrainer.arguments.launched import join_group

WORK_S = 2.0


def tell(what: str) -> None:
    rank = os.environ["RANK"]
    (Path(sys.argv[1]) / f"{what}-{rank}").write_text(str(time.time()))


atexit.register(tell, "ended")  # the first to be registered is the last to be called
join_group(TrainingArguments(sys.argv[1], use_cpu=True, report_to="none"))
if os.environ["RANK"] == "0":
    time.sleep(WORK_S)
tell("done")
if os.environ["RANK"] == "0":
    (Path(sys.argv[1]) / "target.json").write_text("{}")
