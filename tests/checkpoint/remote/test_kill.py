"""SIGKILL of a process while it uploads a checkpoint: before the first file, in the middle, after the manifest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from raytrainer.checkpoint.remote.contents import contents_of
from raytrainer.storage.stage import stage_of, stage_root
from raytrainer.storage.store import ObjectStore
from tests.buckets import Fault, saved
from tests.checkpoint.remote import victim
from tests.test_layout import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

# Request, whether the server still gets it, and the checkpoint that counts afterwards.
MOMENTS = {
    "before the first file": ("checkpoint-is-incomplete.txt", True, "checkpoint-3"),
    "before a file in the middle": ("optimizer.pt", False, "checkpoint-3"),
    "after a file in the middle": ("model.safetensors", True, "checkpoint-3"),
    "before the manifest": ("manifest.json", False, "checkpoint-3"),
    "after the manifest": ("manifest.json", True, "checkpoint-6"),
}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The weights of a run that nobody kills."""
    return victim.train(str(tmp_path_factory.mktemp("quiet")))


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.replace(" ", "-"))
def test_a_run_that_is_killed_while_it_uploads_goes_on_to_the_same_weights(bucket, proxy, quiet, moment):
    file, is_received, counts = MOMENTS[moment]
    started = subprocess.Popen(
        [sys.executable, victim.__file__, bucket.uri],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def kill(request):
        if request.method == "PUT" and request.key == f"run/checkpoint-6/{file}":
            started.send_signal(signal.SIGKILL)
            return Fault()  # the server does not get it
        return None

    if is_received:
        proxy.after = kill
    else:
        proxy.before = kill
    output, _ = started.communicate(timeout=120)
    assert started.returncode == -signal.SIGKILL, output
    proxy.pass_all()
    store = ObjectStore(bucket.uri)
    assert contents_of(store, "checkpoint-6").is_partial == (counts == "checkpoint-3")
    assert counts in bucket.checkpoints()
    left = [path for path in stage_root().iterdir() if path.is_dir()]
    assert len(left) == 1, "the stage of the killed process"
    assert victim.train(bucket.uri, resume_from_checkpoint=True) == quiet
    assert not left[0].exists()
    assert stage_of(bucket.uri).exists()
    # Nothing was left to save after the manifest, so nothing was deleted either.
    older = {"checkpoint-3"} if counts == "checkpoint-6" else set()
    assert {name.partition("/")[0] for name in saved(bucket.objects())} == {"checkpoint-6", *older}
