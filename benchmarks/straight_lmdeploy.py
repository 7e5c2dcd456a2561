"""LMDeploy without us: its engine in a process of its own (`benchmarks/straight.py` says the rest).

The device is the CPU stand-in of our tests, the engine and what asks it are LMDeploy's: one
`async_stream_infer` for each request, all at once, as LMDeploy's server does it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count
from typing import Any

from benchmarks.batches import sampling
from benchmarks.straight import Batch, Engine, serve

_sessions = count(1)


def load(options: dict[str, Any]) -> Engine:
    """As `engines/lmdeploy/pytorch.py` starts it."""
    from sage_llm_ops.testing.lmdeploy_cpu.engine import plain_engine

    engine = plain_engine(options)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_begin(engine))
    return (lambda batch: loop.run_until_complete(_batch(engine, batch))), engine.stop


async def _begin(engine: Any) -> None:
    engine.start()


async def _batch(engine: Any, batch: Batch) -> tuple[float, list[list[int]]]:
    began = time.perf_counter()
    outputs = await asyncio.gather(*(_one(engine, ids, wanted) for ids, wanted in batch))
    return time.perf_counter() - began, outputs


async def _one(engine: Any, ids: list[int], wanted: int) -> list[int]:
    from sage_llm_ops.engines.lmdeploy.sampling import stop_tokens, to_lmdeploy

    given = sampling(wanted)
    config = to_lmdeploy(given, stop_tokens(given, ()), wanted)
    out: list[int] = []
    stream = engine.create_instance().async_stream_infer(next(_sessions), ids, gen_config=config)
    async for output in stream:
        out.extend(output.token_ids or ())
    return out


if __name__ == "__main__":
    serve(sys.argv[1], load)
