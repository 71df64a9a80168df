"""What the process of a worker prints once its work is done: nothing.

Ray ends the process while one of its own calls may be under way there. Ray then takes the missing answer for a bug of
its own, and prints the stack of its C++ code, which Ray brings to the driver's terminal below the summary of a run that
went well.
"""

from __future__ import annotations

import contextlib
import os
import sys

_STREAMS = (1, 2)


def end_output() -> None:
    """Print what was written until now, and nothing of what follows; log files are not affected."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in _STREAMS:
            os.dup2(null, number)
    finally:
        os.close(null)
