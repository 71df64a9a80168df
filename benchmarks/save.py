"""The time that a save takes from training: a model of 135 M parameters with AdamW, against transformers.Trainer.

    python benchmarks/save.py [--rounds 3] [--saves 5] [--throttle 100] [--threads N] [--storage both] [--quick]

Each side trains in a process of its own and saves several times, the next time when the save before is committed and
five more steps are done. What a save takes is the time from the step at which it was due until the first step after its
commit, less what as many steps take when nothing is saved (the median of the steps just before and after: a machine
that others use too is faster in one minute than in the next). So it counts the copy, the steps that are slower while a
save is written, and everything that training waits for.

``raytrainer`` saves beside training (``async_save=True``), ``in the loop`` is the same without it. Measured are this
disk as it is, and a storage that writes ``--throttle`` MB/s: a library between the processes and the system delays each
write below the directory of the run, on all sides alike, as a network mount does that answers when the data are there.
It needs a C compiler; without one that part is left out.

On a machine whose cores are all busy with training, whatever a process beside it computes is taken from training;
``--threads`` gives training fewer cores than there are, as where it runs on a GPU. What other programs took of the
machine is printed, because it spoils the figures. So is what the process beside computed for a save, which other
programs hardly change.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from scripts.figures import note

import raytrainer

SIDES = ("raytrainer", "in the loop", "transformers")
QUIET_STEPS = 5
"""Between two saves."""
TIMEOUT_S = 1800
SLOW_WRITES = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void delay(int file, size_t size) {
    const char *below = getenv("SLOW_BELOW"), *rate = getenv("SLOW_BYTES_PER_S");
    char link[64], path[4096];
    if (!below || !rate || size < 4096) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (strncmp(path, below, strlen(below))) return;
    double seconds = size / atof(rate);
    struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *data, size_t size) {
    delay(file, size);
    return REAL(write)(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    delay(file, size);
    return REAL(pwrite)(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    delay(file, size);
    return REAL(pwrite64)(file, data, size, at);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    size_t size = 0;
    for (int i = 0; i < count; i++) size += parts[i].iov_len;
    delay(file, size);
    return REAL(writev)(file, parts, count);
}
"""


class Saves(transformers.TrainerCallback):
    """Asks for saves, and measures what each took.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.ends: list[float] = []
        """When each step had ended [s]."""
        self.due: list[int] = []
        self.committed: list[int] = []
        """How many steps had ended when a save was due, and when it was committed."""
        self.computed_beside = [0.0]
        """What other processes of this run had computed then [s]."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())
        done = len(self.ends)
        is_quiet = len(self.due) == len(self.committed)
        if not is_quiet or done < (self.committed or [2])[-1] + QUIET_STEPS:
            return
        if len(self.due) == self.count:
            control.should_training_stop = True
        else:
            self.due.append(done)
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.committed.append(len(self.ends))
        self.computed_beside.append(beside_s())

    def taken(self) -> dict[str, Any]:
        """Seconds that each save took, and those of a step."""
        lengths = [end - begin for begin, end in itertools.pairwise(self.ends)]
        windows = [range(due - 1, end) for due, end in zip(self.due, self.committed, strict=True)]
        in_saves = {number for window in windows for number in window}

        def usual(window: range) -> float:
            before = range(max(window.start - QUIET_STEPS, 0), window.start)
            after = range(window.stop, min(window.stop + QUIET_STEPS, len(lengths)))
            return statistics.median(
                lengths[number] for number in (*before, *after) if number not in in_saves
            )

        taken = [
            sum(lengths[number] for number in window) - len(window) * usual(window) for window in windows
        ]
        beside = [end - begin for begin, end in itertools.pairwise(self.computed_beside)]
        return {
            "saves": taken,
            "step": statistics.median(usual(window) for window in windows),
            "steps_beside": [len(window) - 1 for window in windows],
            "computed_beside": beside,
        }


def make_model(is_quick: bool) -> torch.nn.Module:
    """A Llama of 135 M parameters, or a tiny one."""
    torch.manual_seed(0)
    hidden, layers, vocabulary = (64, 2, 512) if is_quick else (576, 30, 49152)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 192 or 1,
            tie_word_embeddings=True,
        )
    )


def train(side: str, directory: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one side in this process."""
    library: Any = transformers if side == "transformers" else raytrainer
    own = (
        {}
        if side == "transformers"
        else {"num_workers": 0, "async_save": side == "raytrainer", "report_page": False}
    )
    if options.threads:
        torch.set_num_threads(options.threads)
    tokens = torch.randint(0, 512, (64, 64), generator=torch.Generator().manual_seed(0))
    saves = Saves(options.saves)
    args = library.TrainingArguments(
        output_dir=directory,
        per_device_train_batch_size=options.batch,
        max_steps=100_000,
        save_steps=50_000,  # so that saves are expected, but none is due
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **own,
    )
    trainer = library.Trainer(
        model=make_model(options.quick),
        args=args,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[saves],
    )
    began_s, of_all, of_own = time.perf_counter(), busy_s(), own_s()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    others = busy_s() - of_all - (own_s() - of_own)
    return {**saves.taken(), "others": others / (time.perf_counter() - began_s) / psutil.cpu_count()}


def busy_s() -> float:
    """Time that all processes of the machine computed since it began [s]."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def beside_s() -> float:
    """Time that processes which this one started, and which live, have computed [s]."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def own_s() -> float:
    """The same of this process and those that it started and has waited for [s]."""
    times = psutil.Process().cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def measure(side: str, environment: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Train one side in a process of its own."""
    directory = tempfile.mkdtemp(prefix="save-", dir=options.directory)
    command = [sys.executable, __file__, "--side", side, "--directory", directory]
    command += ["--saves", str(options.saves), "--batch", str(options.batch)]
    command += ["--threads", str(options.threads)]
    command += ["--quick"] if options.quick else []
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment, "SLOW_BELOW": directory},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    finally:
        shutil.rmtree(directory)
    if done.returncode != 0:
        raise SystemExit(f"{side} ended with {done.returncode}:\n{done.stderr[-5000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def slow_writes(directory: Path, megabytes_per_s: float) -> dict[str, str] | None:
    """Environment of a process whose writes are slow; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or megabytes_per_s <= 0:
        return None
    source, library = directory / "slow_writes.c", directory / "slow_writes.so"
    source.write_text(SLOW_WRITES)
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_BYTES_PER_S": str(megabytes_per_s * 1e6)}


def compare(name: str, environment: dict[str, str], options: argparse.Namespace) -> None:
    """Print what saves take from each side's training."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            found[side].append(measure(side, environment, options))
            note(f"save {name}", side, *found[side][-1]["saves"])
    medians = {
        side: statistics.median(s for one in runs for s in one["saves"]) for side, runs in found.items()
    }
    others = max(one["others"] for runs in found.values() for one in runs)
    print(f"Saves {name}; other programs took up to {others:.0%} of the machine:")
    for side, runs in found.items():
        first = statistics.median(one["saves"][0] for one in runs)
        beside = max(steps for one in runs for steps in one["steps_beside"])
        computed = statistics.median(s for one in runs for s in one["computed_beside"])
        print(
            f"  {side:12} {medians[side]:8.3f} s a save ({first:.3f} s the first)"
            f"   {medians[side] / medians['transformers']:6.3f} x transformers"
            f"   up to {beside} steps beside a save, {statistics.median(one['step'] for one in runs):.3f} s each"
            f"   {computed:.2f} s computed beside"
        )


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2, help="sequences of 64 tokens a step")
    parser.add_argument(
        "--threads", type=int, default=0, help="of training; those that torch takes by default"
    )
    parser.add_argument("--storage", choices=("both", "disk", "slow"), default="both")
    parser.add_argument("--throttle", type=float, default=100.0, help="MB/s; 0 leaves that part out")
    parser.add_argument("--directory", help="where to save; the temporary directory by default")
    parser.add_argument("--quick", action="store_true", help="a tiny model: shows only that the script works")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(train(options.side, options.directory, options)))
        return
    if options.storage != "slow":
        compare("on this disk", {}, options)
    if options.storage == "disk":
        return
    with tempfile.TemporaryDirectory() as directory:
        environment = slow_writes(Path(directory), options.throttle)
        if environment is None:
            print("Without a C compiler no slow storage is measured.")
        else:
            compare(f"at {options.throttle:g} MB/s", environment, options)


if __name__ == "__main__":
    main()
