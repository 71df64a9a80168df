"""The command ``raytrainer``: which commands there are, with which options. What each does is in a module of its name.

Built with click, which Ray brings along. Nothing else is imported until a command runs, so ``--help`` and
completion in a shell answer at once.

Exit codes: 0, done, and what was looked at is well; 1, what was looked at is damaged, or failed; 2, a
command line or settings that cannot be used. ``launch`` ends with the exit code of its script.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable

import click

from raytrainer._version import __version__
from raytrainer.errors import RayTrainerError
from raytrainer.suggestions import did_you_mean

_EPILOG = (
    "Exit codes: 0 done; 1 what was looked at is damaged, or failed; 2 a command line or settings that cannot be "
    "used.\n\n"
    "\b\nCompletion in a shell:\n"
    '  bash  eval "$(_RAYTRAINER_COMPLETE=bash_source raytrainer)"\n'
    '  zsh   eval "$(_RAYTRAINER_COMPLETE=zsh_source raytrainer)"\n'
    "  fish  _RAYTRAINER_COMPLETE=fish_source raytrainer | source"
)
_LAUNCH_FLAGS = (
    "\b\nFlags, all of which `accelerate launch --help` lists:\n"
    "  --num_processes N           num_workers\n"
    "  --mixed_precision bf16      bf16; fp16, no\n"
    "  --cpu                       use_cpu\n"
    "  --use_fsdp, --fsdp_...      fsdp, fsdp_config\n"
    "  --use_deepspeed, --zero_stage, --deepspeed_config_file ...\n"
    "                              deepspeed\n"
    "  --config_file FILE          what `accelerate config` wrote\n"
    "  -m, --module                the script is a module, as for python -m\n\n"
    "\b\nExample:\n"
    "  raytrainer launch --num_processes 4 train.py --learning_rate 1e-4"
)
_PLACE = click.Path()
"""A path, which a shell completes, or a URI."""
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")


class Commands(click.Group):
    """A group that asks what a mistyped command was meant to be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            meant = did_you_mean(args[0], self.commands)
            ctx.fail(f"{args[0]!r} is not a command.{meant}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    name="raytrainer",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__, "-V", "--version")
def commands() -> None:
    """Train with Ray, and look at what was trained."""


@commands.command(
    short_help="Run a script that trains on Ray.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[FLAGS]",
    epilog=_LAUNCH_FLAGS,
)
@click.argument(
    "words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="SCRIPT.PY [ARGUMENTS OF THE SCRIPT]"
)
def launch(words: tuple[str, ...]) -> int:
    """Run a script whose Trainer trains on Ray, with the flags of `accelerate launch`.

    The script runs here, as the driver, and the flags become defaults of its TrainingArguments. A flag that has no
    meaning on Ray is refused before the script starts, with what to do instead.
    """
    from raytrainer.cli import launch as module

    return module.launch(list(words))


@commands.command(short_help="Write the model of a checkpoint for from_pretrained.")
@click.argument("checkpoint", type=_PLACE)
@click.argument("directory", type=_PLACE)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the weights; as saved by default.",
)
@click.option("--max_shard_size", default="5GB", show_default=True, help="Largest size of a weight file.")
@_JSON
def export(checkpoint: str, directory: str, dtype: str | None, max_shard_size: str, as_json: bool) -> int:
    """Write the model of a CHECKPOINT, from any backend, to a DIRECTORY for from_pretrained.

    Each is a path or a URI; the directory is new or empty.
    """
    from raytrainer.cli import export as module

    return module.export(checkpoint, directory, dtype=dtype, max_shard_size=max_shard_size, as_json=as_json)


@commands.command(short_help="Write the page of a run, or of several.")
@click.argument("run_dirs", nargs=-1, required=True, metavar="RUN_DIR...", type=_PLACE)
@click.option(
    "--output", "-o", type=_PLACE, help="Where the page goes; report.html in the first directory by default."
)
@click.option("--png", is_flag=True, help="Write a PNG of each curve too, into a folder beside the page.")
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@_JSON
def report(run_dirs: tuple[str, ...], output: str | None, png: bool, opens: bool, as_json: bool) -> int:
    """Write the page of a run, a sweep, or several runs side by side: one HTML file, which loads nothing.

    RUN_DIR is the output_dir of a run, also of one that runs, was killed, or was copied here; or its URI.
    """
    from raytrainer.cli import report as module

    return module.report(list(run_dirs), output=output, png=png, opens=opens, as_json=as_json)


@commands.command(short_help="Look whether runs can work here, or on a cluster.")
@click.option("--address", help="A Ray cluster, HOST:PORT; that in RAY_ADDRESS by default.")
@click.option("--storage", type=_PLACE, help="A directory or URI for runs, tried from every machine.")
@_JSON
def doctor(address: str | None, storage: str | None, as_json: bool) -> int:
    """Look at versions, devices and optimizers here, at every node of a cluster, and at a storage from each.

    No Ray is started. The exit code is 1 if something keeps runs from working.
    """
    from raytrainer.cli import doctor as module

    return module.doctor(address=address, storage=storage, as_json=as_json)


@commands.command(short_help="List the runs below a directory.")
@click.argument("directory", default=".", type=_PLACE)
@_JSON
def runs(directory: str, as_json: bool) -> int:
    """List the runs below a DIRECTORY, a path or a URI: state, step, loss, newest checkpoint, whether they live.

    The exit code is 1 if there is none.
    """
    from raytrainer.cli import runs as module

    return module.runs(directory, as_json=as_json)


@commands.command(short_help="Check that checkpoints are complete and intact.")
@click.argument("checkpoint", type=_PLACE)
@_JSON
def verify(checkpoint: str, as_json: bool) -> int:
    """Check a CHECKPOINT: that its files are there and intact, and what it can be resumed with.

    A checkpoint-N, or the output_dir of a run, whose checkpoints are all checked; a path or a URI. The exit code is 1
    if one is damaged.
    """
    from raytrainer.cli import verify as module

    return module.verify(checkpoint, as_json=as_json)


@commands.command(short_help="Show a run from another terminal.")
@click.argument("run_dir", type=_PLACE)
@click.option("--once", is_flag=True, help="Show what there is, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines of its record as they come.")
def watch(run_dir: str, once: bool, as_json: bool) -> int:
    """Show a run as its driver shows it, from another terminal; ends with the run.

    RUN_DIR is the output_dir of the run, on a file system that this machine shares with it, or its URI. The exit code
    is 1 if the run failed or was killed.
    """
    from raytrainer.cli import watch as module

    return module.watch(run_dir, once=once, as_json=as_json)


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; that of this process by default.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if arguments is None else arguments
    run: Callable[..., object] = commands.main
    try:
        code = run(args=words, prog_name="raytrainer", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except RayTrainerError as error:
        print(_for_people(f"raytrainer {words[0]}: {error}"), file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


def _for_people(text: str) -> str:
    """On a terminal, lines that break between words."""
    if not sys.stderr.isatty():
        return text
    from raytrainer.telemetry.formatting import wrapped

    return "\n".join(wrapped(text, shutil.get_terminal_size().columns))
