"""Workers are forked from a process that has done their imports, and started as ever where that could differ."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from raytrainer.driver import fork_server as module_under_test
from raytrainer.driver.fork_server import ForkServer, starts_plain_python
from raytrainer.wire.spec import ship
from raytrainer.worker.fork_server.modules import may_be_forked
from raytrainer.worker.fork_server.server import why_not

pytestmark = pytest.mark.timeout(60)

WORKER = """
import json, os, sys
import_done = "wave" in sys.modules
import numpy
import torch
print(json.dumps({
    "pid": os.getpid(), "forked": import_done, "arguments": sys.argv[1:], "directory": os.getcwd(),
    "variable": os.environ.get("RAY_SOMETHING"), "main": __name__, "number": float(numpy.random.rand()),
    "drawn": float(torch.rand(())),
    "stdin": sys.stdin.read(), "niceness": os.getpriority(os.PRIO_PROCESS, 0), "path": sys.path[0],
}))
print("said in vain", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def server():
    server = ForkServer(["wave", "numpy", "torch"])
    yield server
    server.end()


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


def start(server, script, *arguments, variables=None, **options):
    """Start a worker as Ray does."""
    environment = {**module_under_test._environment(os.environ), **(variables or {})}
    return subprocess.run(
        [*shlex.split(server.py_executable), str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        **options,
    )


def result(done):
    return json.loads(done.stdout)


def test_a_worker_is_a_fork_that_has_imported(server, script):
    assert result(start(server, script))["forked"]


def test_a_fork_is_what_ray_asked_for(server, script, tmp_path):
    done = start(server, script, "--port", "1", variables={"RAY_SOMETHING": "x"}, cwd=tmp_path, input="typed")
    found = result(done)
    assert found["forked"]
    assert found["arguments"] == ["--port", "1"]
    assert found["directory"] == str(tmp_path)
    assert found["variable"] == "x"
    assert found["main"] == "__main__"
    assert found["stdin"] == "typed"
    assert found["path"] == str(script.parent)
    assert done.stderr == "said in vain\n"


def test_a_fork_has_the_niceness_that_ray_gave_it(server, script):
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 4)
    found = result(start(server, script, preexec_fn=lambda: os.nice(4)))
    assert (found["forked"], found["niceness"]) == (True, niceness)


def test_forks_do_not_draw_the_same_random_numbers(server, script):
    first, second = (result(start(server, script)) for _ in range(2))
    assert first["forked"]
    assert second["forked"]
    assert first["number"] != second["number"]
    assert first["drawn"] != second["drawn"]


def test_a_worker_whose_libraries_would_read_another_variable_is_started_by_python(server, script):
    found = result(start(server, script, "--port", "1", variables={"HF_HOME": "/elsewhere"}))
    assert not found["forked"]
    assert found["arguments"] == ["--port", "1"]


def test_a_worker_is_started_by_python_when_the_server_is_gone(script):
    server = ForkServer([])
    os.kill(server.pid, signal.SIGKILL)
    server._process.wait(10)
    assert not server.is_alive
    assert not result(start(server, script))["forked"]
    server.end()
    assert not result(start(server, script))["forked"], "not even its socket is there"


def test_a_server_that_must_not_be_forked_ends_and_says_why(script):
    server = ForkServer(["ray"])
    server._process.wait(30)
    refusal = json.loads((server.directory / "state.json").read_text())["refusal"]
    assert "Ray has been imported" in refusal
    assert not result(start(server, script))["forked"]
    server.end()


def test_the_server_ends_with_the_driver_and_its_workers_do_not(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys\nprint(os.getpid(), flush=True)\nsys.stdin.readline()\nprint('on', flush=True)\n"
    )
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import subprocess, shlex, sys\n"
        "from raytrainer.driver import fork_server\n"
        "server = fork_server.ForkServer([])\n"
        f"command = [*shlex.split(server.py_executable), {str(worker)!r}]\n"
        "environment = fork_server._environment(fork_server.os.environ)\n"
        "subprocess.Popen(command, env=environment)\n"
        "print(server.pid, server.directory, flush=True)\n"
        "input()\n"
    )
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, str(driver)], stdin=read, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        pid, directory = next(line for line in lines if " " in line).split()
        number = next(int(line) for line in lines if " " not in line)
        assert os.stat(f"/proc/{number}").st_uid == os.getuid()
        process.kill()
        _wait_for_end(int(pid))
        os.write(write, b"go on\n")
        assert process.stdout.readline() == "on\n"
    os.close(read)
    os.close(write)
    assert not Path(directory).exists()


def _wait_for_end(pid: int) -> None:
    """Wait until a process that is not a child has ended."""
    import select

    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([handle], [], [], 20)[0]
    os.close(handle)


@pytest.fixture
def without_ray(monkeypatch):
    """This process, as if it had neither Ray nor threads."""
    monkeypatch.delitem(sys.modules, "ray._raylet", raising=False)
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    enumerate_all = threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [one for one in enumerate_all() if one not in others])


def test_a_process_with_a_thread_is_not_forked(without_ray):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="reader")
    thread.start()
    try:
        assert "reader" in (why_not({}) or "")
    finally:
        stop.set()
        thread.join()


def test_a_process_that_has_opened_a_device_is_not_forked(without_ray, monkeypatch):
    assert why_not({}) is None
    monkeypatch.setattr(
        "raytrainer.worker.fork_server.server._open_files", lambda: ["/dev/null", "/dev/nvidia0"]
    )
    assert "/dev/nvidia0" in (why_not({}) or "")


def test_a_process_with_another_file_of_a_module_than_the_driver_is_not_forked(without_ray, monkeypatch):
    assert why_not({"json": json.__file__}) is None
    assert "/elsewhere/json.py" in (why_not({"json": "/elsewhere/json.py"}) or "")


def test_modules_that_a_script_brings_must_be_the_same_and_copies_of_installed_ones_need_not(
    monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])  # as multiprocessing does
    hiding = ModuleType("hides_an_installed_one")
    hiding.__file__ = str(tmp_path / "hides_an_installed_one.py")
    monkeypatch.setitem(sys.modules, hiding.__name__, hiding)
    files = module_under_test._files_here()
    assert files["hides_an_installed_one"] == hiding.__file__
    assert "raytrainer" in files
    assert not {"pytest", "psutil", "json"} & files.keys()
    assert not any(name.startswith("__") for name in files)


def test_a_worker_of_another_python_is_not_forked():
    assert starts_plain_python({})
    assert starts_plain_python({"env_vars": {"A": "1"}, "pip": None})
    assert not starts_plain_python({"pip": ["numpy"]})
    assert not starts_plain_python({"py_executable": "uv run"})


def test_the_server_imports_the_installed_modules_that_the_trainer_names():
    from torch.nn import Linear

    modules = ship(Linear(2, 2)).modules
    assert "torch.nn.modules.linear" in modules
    assert not any(name.startswith("tests.") for name in modules)
    assert may_be_forked("torch.nn")
    assert not may_be_forked("ray.data")
