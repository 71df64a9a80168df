"""What a step of the loop costs besides the model: our own Python, on a model that computes nothing.

    python benchmarks/step_cost.py [--case plain mean log accumulate ranks llama] [--steps 400]
    python benchmarks/step_cost.py --instructions        under valgrind, which another load does not disturb; minutes
    python benchmarks/step_cost.py --rows 30 --case log  the functions that take most

The same model is trained by raytrainer, by transformers.Trainer and by a bare loop that fetches, computes, clips, steps
AdamW, the schedule, and sets gradients to zero. Printed is, for each, CPU time of the training thread per step (of
blocks of 20 steps the cheapest, so that other processes count little), and the number of Python functions that are
called in a step. What is beyond the bare loop is what the trainer adds.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import logging
import os
import pstats
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

WARM_UP = 20
BLOCK = 20
NUM_MODULES = 100
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "mean": {},
    "log": {"logging_strategy": "steps", "logging_steps": 1},
    "accumulate": {"gradient_accumulation_steps": 4},
    "ranks": {},
    "llama": {},
    "llama-log": {"logging_strategy": "steps", "logging_steps": 1},
}
"""Arguments of each case. The loss is divided by the targets of the step; in ``mean`` it is the mean of a micro-batch.
``ranks`` is two processes over gloo. ``llama`` is a small model that computes, and so empties the caches of the CPU."""


class Nothing(nn.Module):
    """A model that computes nothing, with the modules of a small one.

    Args:
        accepts_count: Divide the loss by the targets of the step.
    """

    def __init__(self, *, accepts_count: bool) -> None:
        super().__init__()
        self.accepts_loss_kwargs = accepts_count
        self.weight = nn.Parameter(torch.zeros(()))
        self.layers = nn.ModuleList(nn.Sequential(nn.Identity()) for _ in range(NUM_MODULES // 2))

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int = 1
    ) -> dict[str, torch.Tensor]:
        """The weight as the loss."""
        return {"loss": self.weight / num_items_in_batch}


class Meter:
    """Measures the steps after the first ones.

    Args:
        what: ``time``, ``calls``, ``rows`` or ``instructions``.
        num_steps: Of the whole run.
    """

    def __init__(self, what: str, num_steps: int) -> None:
        self.what = what
        self.num_steps = num_steps
        self.readings: list[int] = []
        self.num_calls = 0
        self.profile = cProfile.Profile(time.thread_time)

    def step(self, number: int) -> None:
        """Look at the clock after a step, or begin or end to count."""
        if self.what == "time":
            if number >= WARM_UP and (number - WARM_UP) % BLOCK == 0:
                self.readings.append(time.thread_time_ns())
        elif number == WARM_UP:
            self.begin()
        elif number == self.num_steps:
            self.end()

    def begin(self) -> None:
        """Count from here."""
        if self.what == "calls":
            sys.setprofile(self.count)
        elif self.what == "rows":
            self.profile.enable()
        else:
            _callgrind("on")

    def end(self) -> None:
        """Count until here."""
        if self.what == "calls":
            sys.setprofile(None)
        elif self.what == "rows":
            self.profile.disable()
        else:
            _callgrind("off")

    def count(self, frame: Any, event: str, argument: object) -> None:
        """Count a call of a Python function."""
        if event == "call":
            self.num_calls += 1

    def result(self) -> float:
        """CPU time [us] or number of calls, of a step."""
        if self.what == "time":
            blocks = [after - before for before, after in zip(self.readings, self.readings[1:], strict=False)]
            return min(blocks) / BLOCK / 1e3
        return self.num_calls / (self.num_steps - WARM_UP)

    def print_rows(self, number: int) -> None:
        """Print the functions that take most time by themselves, and those in which most is spent."""
        steps = self.num_steps - WARM_UP
        for order in ("tottime", "cumulative"):
            found = pstats.Stats(self.profile).sort_stats(order)
            print(f"\n{'calls/step':>10} {'own us':>8} {'all us':>8}   by {order}")
            for key in found.fcn_list[:number]:  # type: ignore[attr-defined]
                _, calls, own, whole, _ = found.stats[key]  # type: ignore[attr-defined]
                path, line, name = key
                where = f"{re.sub(r'.*/(site-packages|lib/python3[^/]*)/', '', path)}:{line}" if line else ""
                print(
                    f"{calls / steps:10.2f} {own / steps * 1e6:8.1f} {whole / steps * 1e6:8.1f}   {name}  {where}"
                )


def _callgrind(switch: str) -> None:
    subprocess.run(["callgrind_control", "-i", switch, str(os.getpid())], check=True, capture_output=True)


def make_model(case: str) -> nn.Module:
    """The model of a case."""
    if not case.startswith("llama"):
        return Nothing(accepts_count=case != "mean")
    import transformers

    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )


def make_data(case: str, num_samples: int) -> list[dict[str, torch.Tensor]]:
    """Samples of two tokens, for a model that computes of more."""
    tokens = torch.ones(200 if case.startswith("llama") else 2, dtype=torch.int64)
    return [{"input_ids": tokens, "labels": tokens} for _ in range(num_samples)]


def run_bare(meter: Meter, case: str) -> None:
    """The bare loop."""
    import transformers

    model = make_model(case).train()
    if case == "ranks":
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    accumulation = CASES[case].get("gradient_accumulation_steps", 1)
    loader = DataLoader(make_data(case, meter.num_steps * accumulation), batch_size=1, shuffle=True)  # type: ignore[arg-type]
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 0, meter.num_steps)
    logs: list[dict[str, float]] = []
    batches: Iterator[Any] = iter(loader)
    for number in range(1, meter.num_steps + 1):
        for index in range(accumulation):
            last = index == accumulation - 1
            with contextlib.nullcontext() if last or case != "ranks" else model.no_sync():  # type: ignore[operator]
                loss = model(**next(batches))["loss"] / accumulation
                loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if case.endswith("log"):
            logs.append({"loss": loss.item(), "grad_norm": norm.item(), "lr": schedule.get_last_lr()[0]})
        meter.step(number)


def run_trainer(library: Any, meter: Meter, case: str, **more: Any) -> None:
    """A Trainer, with checkpoints off, and logs too unless the case is about them."""
    import transformers

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            meter.step(state.global_step)

    options: dict[str, Any] = {"logging_strategy": "no"} | CASES[case] | more
    accumulation = options.get("gradient_accumulation_steps", 1)
    with tempfile.TemporaryDirectory() as directory:
        args = library.TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=1,
            max_steps=meter.num_steps,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **options,
        )
        world_size = 2 if case == "ranks" else 1
        data = make_data(case, meter.num_steps * accumulation * world_size)
        trainer = library.Trainer(model=make_model(case), args=args, train_dataset=data, callbacks=[Clock()])
        trainer.train()


def run(library: str, meter: Meter, case: str) -> None:
    """Train with one of the three."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if library == "bare":
            run_bare(meter, case)
        elif library == "raytrainer":
            import raytrainer

            run_trainer(raytrainer, meter, case, **({} if case == "ranks" else {"num_workers": 0}))
        else:
            import transformers

            more = {"ddp_backend": "gloo"} if case == "ranks" else {}
            run_trainer(transformers, meter, case, **more)


def in_child(library: str, case: str, what: str, num_steps: int, rows: int = 0) -> str:
    """Run in a process of its own, or in two of them.

    Args:
        library: Which of the three.
        case: The case.
        what: As of ``Meter``.
        num_steps: Likewise.
        rows: How many functions to print.

    Returns:
        What rank 0 printed; under valgrind, what that printed.
    """
    command = [sys.executable, __file__, "--child", json.dumps([library, case, what, num_steps, rows])]
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]
    ranks = range(2) if case == "ranks" else range(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children: list[subprocess.Popen[str]] = []
    for rank in ranks:
        env = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        if len(ranks) > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        measures = rank == 0 and what == "instructions"
        started = [*valgrind, *command] if measures else command
        children.append(
            subprocess.Popen(started, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [child.communicate() for child in children]
    if any(child.returncode for child in children):
        sys.exit("\n".join(error for _, error in outputs))
    return outputs[0][what == "instructions"]


def number_of(library: str, case: str, what: str, num_steps: int) -> float:
    """What a step of a library costs, as of ``in_child``: time [us], calls or instructions."""
    printed = in_child(library, case, what, num_steps)
    if what != "instructions":
        return float(printed.strip().splitlines()[-1])
    found = re.search(r"Collected : (\d+)", printed)
    assert found is not None, printed
    return int(found[1]) / (num_steps - WARM_UP)


def measure_child(library: str, case: str, what: str, num_steps: int, rows: int) -> None:
    """In a child: measure, and print the number or the rows."""
    meter = Meter(what, num_steps)
    run(library, meter, case)
    if what == "rows":
        meter.print_rows(rows)
    elif what != "instructions":
        print(meter.result())


def print_table(cases: list[str], columns: dict[str, Callable[[str, str], float]]) -> None:
    """Print what a step costs.

    Args:
        cases: Names of cases.
        columns: Title -> what measures a library in a case.
    """
    print(f"{'case':11} {'library':13}" + "".join(f"{title:>18} {'beyond bare':>12}" for title in columns))
    for case in cases:
        bare: dict[str, float] = {}
        for library in ("bare", "raytrainer", "transformers"):
            cells = ""
            for title, measure in columns.items():
                value = measure(library, case)
                bare.setdefault(title, value)
                cells += f"{value:18,.1f} {value - bare[title]:12,.1f}"
            print(f"{case:11} {library:13}{cells}", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=[*CASES][:5])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--instructions", action="store_true", help="count instructions, under valgrind")
    parser.add_argument("--rows", type=int, help="print so many functions of raytrainer instead")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure_child(*json.loads(options.child))
    elif options.rows:
        for case in options.case:
            print(f"\n{case}{in_child('raytrainer', case, 'rows', options.steps, options.rows)}")
    elif options.instructions:
        print_table(
            options.case,
            {
                "instructions/step": lambda library, case: number_of(
                    library, case, "instructions", WARM_UP + 40
                )
            },
        )
    else:
        print_table(
            options.case,
            {
                "us/step": lambda library, case: number_of(library, case, "time", options.steps),
                "calls/step": lambda library, case: number_of(library, case, "calls", WARM_UP + 40),
            },
        )


if __name__ == "__main__":
    main()
