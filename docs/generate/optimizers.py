"""The table of the catalogue, for the documentation."""

from __future__ import annotations

from raytrainer.optim.catalogue import REFUSED, entries
from raytrainer.optim.traits import ANY_BACKEND, WHOLE_PARAMETERS, Entry

_COLUMNS = ("`optim`", "package", "state per parameter", "backends", "`optim_args`", "refuses", "paper")
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"


def table() -> str:
    """All names, available and refused, in Markdown."""
    rows = [_row(entry) for entry in entries() if entry.family != "registered"]
    refused = [f"| `{name}` | {why} |" for name, why in sorted(REFUSED.items())]
    return "\n".join([_HEAD, *rows, "", "| refused | why, and what to take |", "|---|---|", *refused, ""])


def _row(entry: Entry) -> str:
    backends = {ANY_BACKEND: "all", WHOLE_PARAMETERS: "one process, DDP"}.get(
        entry.traits.backends, "one process, DDP, FSDP2"
    )
    refuses = []
    if entry.traits.backends != ANY_BACKEND:
        refuses.append(f"other backends: {entry.traits.why_not}")
    if entry.traits.updates_in_backward:
        refuses.append("accumulation, clipping by norm, fp16")
    if entry.name.startswith("paged_"):
        refuses.append("the CPU")
    options = ", ".join(f"`{name}`" for name in entry.options)
    paper = f"[{entry.paper}](https://arxiv.org/abs/{entry.paper})" if entry.paper else ""
    package = f"`{entry.package}`" if entry.package else ""
    return f"| `{entry.name}` | {package} | {entry.state} | {backends} | {options} | {'; '.join(refuses)} | {paper} |"
