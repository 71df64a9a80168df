"""The entry point of ``raytrainer``."""

from __future__ import annotations

import sys

from raytrainer.errors import RayTrainerError

USAGE = """usage: raytrainer launch [flags of accelerate launch] script.py [arguments of the script]

commands:
  launch   run a script whose Trainer trains on Ray, with the flags of `accelerate launch`
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] != "launch":
        print(f"raytrainer: {words[0]!r} is no command.\n\n{USAGE}", file=sys.stderr)
        return 2
    from raytrainer.cli.launch import launch

    try:
        return launch(words[1:])
    except RayTrainerError as error:
        print(f"raytrainer launch: {error}", file=sys.stderr)
        return 2
