"""The live driver when attempts fail: what is retried, what ends typed."""

from __future__ import annotations

import numpy as np
import pytest

from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import (
    EngineFailed,
    Quarantined,
    WorkerLost,
)
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.wire import Tokens
from tests.pipeline.live_helpers import Make, add_inline, wait


def test_a_retry_goes_on_exactly_where_it_stopped(live: Make) -> None:
    one = live()
    first, second = one.add("w0", slots=1), one.add("w1", slots=1)
    handle = one.pipeline.submit(make_request("a", max_tokens=6))
    wait(lambda: first.held)
    first.tokens(first.node_of("a"), 11, 12)
    first.kill()
    wait(lambda: second.held)
    node = second.node_of("a")
    assert (node.attempt, node.offset, node.sampling.max_tokens) == (2, 2, 4)
    assert np.frombuffer(node.tokens, "<i4").tolist() == [1, 2, 3, 4, 11, 12]
    second.done(node, 13, 14, 15, 16)
    result = handle.result(5.0)
    assert result.token_ids == (11, 12, 13, 14, 15, 16)
    assert result.attempts == 2


def test_a_retry_of_a_real_stream_gives_the_tokens_of_an_undisturbed_one(live: Make) -> None:
    one = live()
    workers = add_inline(one, 2, decode_ms=[0.0, 0.0, 2.0], prefill_ms=[0.0, 0.0, 1.0])
    truth = one.pipeline.submit(make_request("truth", max_tokens=30)).result(5.0)
    handle = one.pipeline.submit(make_request("a", max_tokens=30))
    wait(lambda: len(handle.tokens) >= 3)
    next(worker for worker in workers if worker.id == handle.worker).kill()
    result = handle.result(5.0)
    assert result.token_ids == truth.token_ids
    assert result.attempts == 2
    for worker in workers:
        worker.stop(1.0)


def test_sampled_output_that_was_seen_fails_typed_with_its_part(live: Make) -> None:
    one = live()
    worker = one.add("w0")
    one.add("w1")
    handle = one.pipeline.submit(make_request("a", temperature=1.0))
    wait(lambda: worker.held)
    worker.tokens(worker.node_of("a"), 11, 12)
    worker.kill()
    with pytest.raises(WorkerLost, match="2 tokens were delivered") as caught:
        handle.result(5.0)
    assert caught.value.partial == (11, 12)


def test_quarantine(live: Make) -> None:
    one = live()
    workers = [one.add(f"w{n}") for n in range(3)]
    handle = one.pipeline.submit(make_request("poison"))
    for _ in range(2):
        wait(lambda: any(worker.held for worker in workers))
        next(worker for worker in workers if worker.held).kill()
    with pytest.raises(Quarantined, match="2 workers died"):
        handle.result(5.0)
    healthy = next(worker for worker in workers if worker.alive)
    assert not healthy.held


def test_a_stream_that_makes_no_sense_fails_typed_and_the_pipeline_lives(live: Make) -> None:
    one = live()
    worker = one.add("w0")
    handle = one.pipeline.submit(make_request("a"))
    for _ in range(4):
        wait(lambda: worker.held)
        worker.report(Tokens(worker.held.popitem()[0], 99, [1]))
    with pytest.raises(EngineFailed, match="token 99 came where 0 was due"):
        handle.result(5.0)
    assert one.pipeline.running


def test_detach_fails_over_and_forgets(live: Make) -> None:
    one = live()
    first, second = one.add("w0"), one.add("w1")
    handle = one.pipeline.submit(make_request("a"))
    wait(lambda: first.held)
    first.tokens(first.node_of("a"), 1)
    one.pipeline.detach(WorkerId("w0"), "scaled down")
    wait(lambda: second.held)
    second.done(second.node_of("a"), 2, 3, 4)
    assert handle.result(5.0).token_ids == (1, 2, 3, 4)
    first.start()
    one.settled()
    assert one.pipeline.plane.fleet.describe()[0]["state"] == "gone"
