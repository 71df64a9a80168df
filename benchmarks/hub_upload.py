"""What an upload to the Hub adds to a step: in the background, as in raytrainer, and blocking the loop.

    python benchmarks/hub_upload.py [--steps 100] [--rounds 3] [--mb-per-s 8]

A local Hub server in a separate process receives bytes at a fixed rate, so that uploads take long without using the
CPU. Every run saves at the same steps. One uploads nothing, one uploads each checkpoint in the background, and one
uploads the same files with the same client in `on_save` and waits. The result is the mean time of a step, with saves
but without the wait at the end of training. Rounds are interleaved; the medians are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
BATCH = 8
WARM_UP = 5
TOKEN = "hf_" + "Secret0123456789" * 2


def serve(mb_per_s: float) -> None:
    """Serve the Hub until stdin is closed."""
    from tests.hub.server import Hub

    with Hub(lfs_suffixes=(".safetensors", ".pt", ".pth"), bytes_per_s=mb_per_s * 1e6) as hub:
        print(hub.url, flush=True)
        sys.stdin.read()


def run(kind: str, num_steps: int, save_steps: int) -> tuple[float, int]:
    """Train once.

    Args:
        kind: "none", "background" or "blocking".
        num_steps: Optimizer steps.
        save_steps: Steps between two saves.

    Returns:
        Mean time of a step [s], and how many uploads were made.
    """
    import transformers

    import raytrainer
    from raytrainer.hub.checkpoint_uploads import upload_checkpoint

    class Clock(transformers.TrainerCallback):
        began = ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == WARM_UP:
                self.began = time.perf_counter()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()

    class Blocking(transformers.TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            upload_checkpoint(trainer, Path(args.output_dir) / f"checkpoint-{state.global_step}")
            trainer._finish_current_push()

    clock = Clock()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()) as out:
        args = raytrainer.TrainingArguments(
            output_dir=f"{directory}/model-{time.time_ns()}",
            per_device_train_batch_size=BATCH,
            max_steps=num_steps,
            save_steps=save_steps,
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            num_workers=0,
            push_to_hub=kind == "background",
            hub_strategy="checkpoint",
            hub_always_push=True,
            hub_token=TOKEN,
        )
        trainer = raytrainer.Trainer(
            model=make_model(), args=args, train_dataset=make_data(num_steps), callbacks=[clock]
        )
        if kind == "blocking":
            trainer.add_callback(Blocking())
        trainer.train()
    return (clock.ended - clock.began) / (num_steps - WARM_UP), out.getvalue().count(" is on http")


def make_model() -> Any:
    """A Llama with 4 M parameters: 16 MB of weights, 32 MB of optimizer state.

    Its weights differ in each run, since the Hub skips files that it already has.
    """
    import torch
    import transformers

    torch.manual_seed(time.time_ns() % 2**31)
    config = transformers.LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4
    )
    return transformers.LlamaForCausalLM(config)


def make_data(num_steps: int) -> list[dict[str, Any]]:
    """Enough samples for one epoch."""
    import torch

    tokens = torch.randint(0, 1024, (num_steps * BATCH, 64), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def main() -> None:
    """Run the rounds and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mb-per-s", type=float, default=8)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.mb_per_s)
        return
    command = [sys.executable, __file__, "--serve", "--mb-per-s", str(options.mb_per_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        os.environ["HF_ENDPOINT"] = server.stdout.readline().strip()
        os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
        compare(options.steps, options.rounds)
        assert server.stdin is not None
        server.stdin.close()


def compare(num_steps: int, num_rounds: int) -> None:
    """Time the three kinds in turn, and print what each adds to a step."""
    import torch

    torch.set_num_threads(1)
    save_steps = num_steps // 2
    times: dict[str, list[float]] = {"none": [], "background": [], "blocking": []}
    uploads = dict.fromkeys(times, 0)
    for _ in range(num_rounds):
        for kind, values in times.items():
            seconds, made = run(kind, num_steps, save_steps)
            values.append(seconds)
            uploads[kind] += made
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    for kind, seconds in medians.items():
        added = seconds - medians["none"]
        print(f"{kind:11} {seconds * 1e3:8.2f} ms/step   +{added * 1e3:7.2f} ms   {uploads[kind]} uploads")
    assert uploads["background"] == uploads["blocking"] > 0
    ratio = (medians["background"] - medians["none"]) / (medians["blocking"] - medians["none"])
    print(
        f"in the background an upload adds {ratio:.3f} x what it adds when blocking the loop (target: at most 0.05)"
    )


if __name__ == "__main__":
    main()
