"""Two real workers are replaced, one after the other, while clients ask: nobody notices."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.e2e.fleet import request, two_workers

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_no_request_fails_while_all_workers_are_replaced(
    tiny: Path, tmp_path: Path, nothing_left: None
) -> None:
    with two_workers(tiny, tmp_path) as plane:
        before = {name: plane.worker(name).describe()["pid"] for name in ("w0", "w1")}
        over = threading.Event()
        attempts: list[int] = []

        def client(number: int) -> None:
            turn = 0
            while not over.is_set():
                turn += 1
                handle = plane.submit(request(f"c{number}", turn, 64))
                attempts.append(handle.result(120.0).attempts)

        clients = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for each in clients:
            each.start()
        try:
            assert plane.roll(120.0) == ["w0", "w1"]
        finally:
            over.set()
            for each in clients:
                each.join(120.0)
        assert set(attempts) == {1}
        assert plane.pipeline.plane.metrics.total().failed == 0
        after = {name: plane.worker(name).describe()["pid"] for name in ("w0", "w1")}
        assert not set(before.values()) & set(after.values())
