"""What sharding saves and costs on two ranks: bytes per rank, memory to load a model, time of a save.

    python benchmarks/sharding.py

Bytes are counted, not timed: parameters, gradients and optimizer state of a Llama of 63 M parameters under DDP, ZeRO
and FSDP2; ZeRO updates a copy of the weights. Loading is measured as the growth of a rank's peak memory against its
shard. A sharded save (each rank writes its part of the weights and the optimizer state) is timed against gathering
everything and writing it on rank 0.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import transformers

RANKS = 2
SCRIPT = Path(__file__).parent / "scripts" / "shards.py"


def main() -> None:
    """Run the ranks and print the ratios."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        sys.path.insert(0, str(SCRIPT.parent))
        from shards import make_model

        transformers.utils.logging.disable_progress_bar()
        make_model().save_pretrained(directory / "model")
        make_model(width=48).save_pretrained(directory / "small")
        for what in ("train", "load"):
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={RANKS}",
            ]
            done = subprocess.run(
                [*command, str(SCRIPT), name, what],
                check=False,
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            if done.returncode:
                raise SystemExit(done.stderr[-4000:])
        ranks = json.loads((directory / "train.json").read_text())
        loads = [rank["load"] for rank in json.loads((directory / "load.json").read_text())]
    print(f"Bytes held by a rank of {RANKS} holds")
    for kind, whole in ranks[0]["DDP"].items():
        print(f"  {kind:16} DDP {whole / 1e6:7.1f} MB", end="")
        for backend in ("ZeRO 1", "ZeRO 2", "ZeRO 3", "FSDP2"):
            most = max(rank[backend][kind] for rank in ranks)
            ratio = f" ({most / whole:.3f})" if whole else ""
            print(f"   {backend} {most / 1e6:6.1f} MB{ratio:8}", end="")
        print()
    print("\nGrowth of peak memory when a model is loaded in shards")
    for number, load in enumerate(loads):
        print(
            f"  rank {number}   {load['grown'] / 1e6:.0f} MB for a shard of {load['shard'] / 1e6:.0f} MB (whole "
            f"{load['whole'] / 1e6:.0f} MB, a layer {load['layer'] / 1e6:.0f} MB)   "
            f"(growth - layer) / shard = {(load['grown'] - load['layer']) / load['shard']:.2f}"
        )
    print("\nSave of weights and optimizer state")
    medians = {}
    for kind, times in ranks[0]["save"].items():
        medians[kind] = statistics.median(times)
        print(f"  {kind:10} median {medians[kind]:.2f} s   of {'  '.join(f'{one:.2f}' for one in times)}")
    print(f"  in shards / gathered = {medians['in shards'] / medians['gathered']:.2f}")


if __name__ == "__main__":
    main()
