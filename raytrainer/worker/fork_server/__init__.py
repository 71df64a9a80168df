"""Workers that begin with their imports done: a process that has imported what they need, and is forked for each.

A worker imports torch, transformers and the loop: seconds of computing, the same for all of them, at the start and
again after every death. On a machine with a fork server this is done once: Ray starts ``handover.py`` where it would
start Python, and that asks ``server.py`` for a copy of itself. Ray's C++ library cannot be forked, so a worker imports
Ray itself.

A worker that would differ in any way from one that Ray starts itself is started by Ray itself. ``server.py`` says when.
"""
