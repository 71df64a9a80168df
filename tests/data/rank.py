"""Trains with many ways to split the data in turn; every rank reports what it saw, and rank 0 writes JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.data.cutting import CASES, run_case

if __name__ == "__main__":
    torch.set_num_threads(1)
    directory = Path(sys.argv[1])
    results: dict[str, Any] = {}
    for name in CASES:
        seen: list[Any] = [None, None]
        mine = run_case(name, directory / name, num_ranks=2)
        dist.all_gather_object(seen, mine)
        results[name] = seen
    if dist.get_rank() == 0:
        (directory / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
