"""Two real vLLM workers, a hundred greedy streams, and questions about them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage_llm_ops import ExecutionInstance, RequestMetadata
from sage_llm_ops.core import ControlPlane, RestartPolicy, serving
from sage_llm_ops.pipeline.handle import RequestHandle

STREAMS = 100


@contextmanager
def two_workers(
    model: Path, logs: Path, record: Path | None = None, **settings: Any
) -> Iterator[ControlPlane]:
    """A started control plane over `w0` and `w1`; stopped at the end whatever happened."""
    plane = ControlPlane(
        serving(**settings),
        default_engine="vllm",
        record=record,
        log_dir=logs,
        restart=RestartPolicy(first_s=0.05, most_s=0.5, stable_s=0.0),
    )
    for name in ("w0", "w1"):
        plane.register(instance(name, model))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop(5.0)


def instance(name: str, model: Path, **fields: Any) -> ExecutionInstance:
    """A small vLLM worker: 64 MiB of KV, so that a test machine holds several."""
    options = {"kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 64, "max_model_len": 1024}
    return ExecutionInstance(name, model_name=str(model), options=options, **fields)


def request(tag: str, number: int, max_tokens: int = 128, **fields: Any) -> RequestMetadata:
    """Greedy, of a fixed length, one of eight shared prefixes."""
    prompt = f"the shared beginning of group {number % 8}, " * 6 + f"and question {number}"
    sampling = {"max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True}
    return RequestMetadata(
        request_id=f"{tag}-{number}", prompt=prompt, sampling_params=sampling, **fields
    )


def submit(
    plane: ControlPlane, tag: str, count: int = STREAMS, **fields: Any
) -> list[RequestHandle]:
    """`count` requests at once."""
    return [plane.submit(request(tag, number, **fields)) for number in range(count)]


def wait_for_tokens(handle: RequestHandle, count: int) -> None:
    """Until `count` tokens are in the caller's stream, or it has ended."""
    seen = 0
    for piece in handle.iter(timeout=60.0):
        seen += len(piece)
        if seen >= count:
            return


def wait_for_tokens_of(worker: str, handles: Sequence[RequestHandle], count: int) -> None:
    """Until this worker has said so much of one of them."""
    heard = threading.Event()

    def look() -> None:
        if any(each.worker == worker and len(each.tokens) >= count for each in handles):
            heard.set()

    for handle in handles:
        handle.subscribe(look)
    look()
    assert heard.wait(60.0)
    for handle in handles:
        handle.unsubscribe(look)


def wait_all_up(plane: ControlPlane) -> None:
    """Until every worker is up again."""
    assert not [w.worker.id for w in plane.supervisor.wait_up(120.0)]
