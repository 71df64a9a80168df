"""Where a loop runs: in this process, in a process group, or in a Ray worker, behind one protocol."""
