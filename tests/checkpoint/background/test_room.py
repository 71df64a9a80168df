"""What is free is the least of the machine, the container and the process."""

from __future__ import annotations

import psutil

from raytrainer.checkpoint.background.room import free_memory

GB = 10**9


def test_a_container_with_a_limit_has_what_it_does_not_use_and_what_the_kernel_gives_up(tmp_path):
    (tmp_path / "memory.max").write_text(f"{GB}\n")
    (tmp_path / "memory.current").write_text(f"{GB // 2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {GB // 10}\n")
    assert free_memory(tmp_path) == int(0.9 * GB) - GB // 2 + GB // 10


def test_a_process_whose_address_space_is_limited_has_what_it_does_not_use(tmp_path, monkeypatch):
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(psutil.Process, "rlimit", lambda self, kind: (used + GB, psutil.RLIM_INFINITY))
    assert 0.9 * GB < free_memory(tmp_path) <= GB


def test_without_a_limit_the_machine_counts_less_a_reserve(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    machine = psutil.virtual_memory()
    found = free_memory(tmp_path)
    assert found < machine.available
    assert found > machine.available - 0.2 * machine.total
