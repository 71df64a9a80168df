"""Uploads run one after the other, and the latest replaces those that have not started."""

from __future__ import annotations

import threading

from raytrainer.hub.upload_queue import UploadQueue


def test_uploads_are_made_one_after_the_other():
    queue, order = UploadQueue(), []
    for number in range(20):
        queue.submit(lambda number=number: order.append(number))
    assert queue.wait(30)
    assert order == list(range(20))


def test_an_upload_that_must_be_made_is_never_canceled():
    queue, made, may_go = UploadQueue(), [], threading.Event()
    queue.submit(may_go.wait)
    queue.submit(lambda: made.append("must"), is_required=True)
    queue.submit(lambda: made.append("older"), is_required=False)
    queue.submit(lambda: made.append("newer"), is_required=False)
    may_go.set()
    assert queue.wait(30)
    assert made == ["must", "newer"]
