"""The entry point of the command ``raytrainer``, which runs one of its subcommands."""

from __future__ import annotations

import importlib
import sys

from raytrainer.errors import RayTrainerError

USAGE = """usage: raytrainer COMMAND ...

commands:
  launch   run a script whose Trainer trains on Ray, with the flags of `accelerate launch`:
           raytrainer launch [flags of accelerate launch] script.py [arguments of the script]
  export   write the model of a checkpoint, from any backend, to a directory for from_pretrained:
           raytrainer export CHECKPOINT DIRECTORY [--dtype bfloat16] [--max_shard_size 5GB]
"""
COMMANDS = ("launch", "export")
"""Each is a function in the module of the same name."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; that of this process by default.

    Returns:
        The exit code: 2 for a command line or settings that cannot be used.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    name = words[0]
    if name not in COMMANDS:
        print(f"raytrainer: {name!r} is not a command.\n\n{USAGE}", file=sys.stderr)
        return 2
    command = getattr(importlib.import_module(f"raytrainer.cli.{name}"), name)
    try:
        return command(words[1:])
    except RayTrainerError as error:
        print(f"raytrainer {name}: {error}", file=sys.stderr)
        return 2
