"""A request from the door to the answer, on simulated workers."""

from __future__ import annotations

PATIENCE_S = 30.0


def in_process() -> str:
    """The SAGE graph, with the worker beside it."""
    return _round_trip("inline")


def in_a_child() -> str:
    """The same with a worker process."""
    return _round_trip("process")


def _round_trip(placement: str) -> str:
    from importlib import metadata

    from sage_llm_ops.core import ControlPlane, serving
    from sage_llm_ops.types.instances import ExecutionInstance
    from sage_llm_ops.types.requests import RequestMetadata

    fast = {"speed": 1000.0}
    plane = ControlPlane(serving(name="doctor"))
    try:
        plane.register(ExecutionInstance("doctor", engine="sim", placement=placement, options=fast))
        plane.start(PATIENCE_S)
        result = plane.submit(RequestMetadata(prompt="Well?", max_tokens=8)).result(PATIENCE_S)
    finally:
        plane.stop(5.0)
    if len(result.token_ids) != 8:
        raise RuntimeError(f"8 tokens were asked for, {len(result.token_ids)} came")
    if placement == "process":
        return "8 tokens from a child over ipc"
    return f"8 tokens through the graph (isage {metadata.version('isage')})"
